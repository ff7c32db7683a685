-- managed: function search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
drop function if exists search.matching_chunks(text, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz);
--> statement-breakpoint
-- managed: function search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz)
drop function if exists search.nearest_chunks(uuid, public.halfvec, integer, text[], text[], uuid, uuid, uuid, timestamptz, timestamptz);
--> statement-breakpoint
-- managed: function search.exceeds(uuid, integer)
drop function if exists search.exceeds(uuid, integer);
--> statement-breakpoint
-- managed: function search.create_partition(uuid)
drop function if exists search.create_partition(uuid);
--> statement-breakpoint
-- managed: function identity.uuid_v7()
drop function if exists identity.uuid_v7();
--> statement-breakpoint
-- managed: function identity.member_organizations(uuid, uuid, integer)
drop function if exists identity.member_organizations(uuid, uuid, integer);
--> statement-breakpoint
-- managed: function identity.member_profiles(uuid, integer)
drop function if exists identity.member_profiles(uuid, integer);
--> statement-breakpoint
-- managed: function identity.enter_scope_from_jwt(text)
drop function if exists identity.enter_scope_from_jwt(text);
--> statement-breakpoint
-- managed: function identity.user_by_subject(text, text)
drop function if exists identity.user_by_subject(text, text);
--> statement-breakpoint
-- managed: function identity.enter_service_scope(uuid)
drop function if exists identity.enter_service_scope(uuid);
--> statement-breakpoint
-- managed: function identity.enter_scope(uuid, uuid)
drop function if exists identity.enter_scope(uuid, uuid);
--> statement-breakpoint
-- managed: function identity.granted_service(uuid)
drop function if exists identity.granted_service(uuid);
--> statement-breakpoint
-- managed: function identity.granted_role(uuid, uuid)
drop function if exists identity.granted_role(uuid, uuid);
--> statement-breakpoint
-- managed: function partitions.create_months(text, text, timestamptz, timestamptz)
drop function if exists partitions.create_months(text, text, timestamptz, timestamptz);
--> statement-breakpoint
DROP POLICY "activity_logs_select" ON "activity"."activity_logs";
--> statement-breakpoint
DROP POLICY "activity_logs_insert" ON "activity"."activity_logs";
--> statement-breakpoint
DROP POLICY "chunks_select" ON "search"."chunks";
--> statement-breakpoint
DROP POLICY "chunks_insert" ON "search"."chunks";
--> statement-breakpoint
DROP POLICY "chunks_update" ON "search"."chunks";
--> statement-breakpoint
DROP POLICY "chunks_delete" ON "search"."chunks";
--> statement-breakpoint
DROP POLICY "embeddings_select" ON "search"."embeddings";
--> statement-breakpoint
DROP POLICY "embeddings_insert" ON "search"."embeddings";
--> statement-breakpoint
DROP POLICY "embeddings_update" ON "search"."embeddings";
--> statement-breakpoint
DROP POLICY "embeddings_delete" ON "search"."embeddings";
--> statement-breakpoint
DROP POLICY "invitations_select" ON "identity"."invitations";
--> statement-breakpoint
DROP POLICY "invitations_insert" ON "identity"."invitations";
--> statement-breakpoint
DROP POLICY "invitations_update" ON "identity"."invitations";
--> statement-breakpoint
DROP POLICY "invitations_delete" ON "identity"."invitations";
--> statement-breakpoint
DROP POLICY "memberships_select" ON "identity"."memberships";
--> statement-breakpoint
DROP POLICY "memberships_insert" ON "identity"."memberships";
--> statement-breakpoint
DROP POLICY "memberships_update" ON "identity"."memberships";
--> statement-breakpoint
DROP POLICY "memberships_delete" ON "identity"."memberships";
--> statement-breakpoint
DROP POLICY "searches_select" ON "search"."searches";
--> statement-breakpoint
DROP POLICY "searches_insert" ON "search"."searches";
--> statement-breakpoint
DROP POLICY "usage_events_select" ON "costs"."usage_events";
--> statement-breakpoint
DROP POLICY "usage_events_insert" ON "costs"."usage_events";
--> statement-breakpoint
DROP POLICY "usage_keys_select" ON "costs"."usage_keys";
--> statement-breakpoint
DROP POLICY "usage_keys_insert" ON "costs"."usage_keys";
--> statement-breakpoint
ALTER TABLE "activity"."activity_logs" DROP CONSTRAINT "activity_logs_organization_id_fkey";
--> statement-breakpoint
ALTER TABLE "search"."chunks" DROP CONSTRAINT "chunks_organization_id_fkey";
--> statement-breakpoint
ALTER TABLE "search"."chunks" DROP CONSTRAINT "chunks_owner_id_fkey";
--> statement-breakpoint
ALTER TABLE "search"."embeddings" DROP CONSTRAINT "embeddings_space_id_fkey";
--> statement-breakpoint
ALTER TABLE "search"."embeddings" DROP CONSTRAINT "embeddings_chunk_id_fkey";
--> statement-breakpoint
ALTER TABLE "identity"."invitations" DROP CONSTRAINT "invitations_organization_id_fkey";
--> statement-breakpoint
ALTER TABLE "identity"."invitations" DROP CONSTRAINT "invitations_invited_by_fkey";
--> statement-breakpoint
ALTER TABLE "identity"."invitations" DROP CONSTRAINT "invitations_accepted_by_fkey";
--> statement-breakpoint
ALTER TABLE "identity"."memberships" DROP CONSTRAINT "memberships_organization_id_fkey";
--> statement-breakpoint
ALTER TABLE "identity"."memberships" DROP CONSTRAINT "memberships_user_id_fkey";
--> statement-breakpoint
ALTER TABLE "identity"."memberships" DROP CONSTRAINT "memberships_invited_by_fkey";
--> statement-breakpoint
ALTER TABLE "search"."searches" DROP CONSTRAINT "searches_organization_id_fkey";
--> statement-breakpoint
ALTER TABLE "costs"."usage_events" DROP CONSTRAINT "usage_events_organization_id_fkey";
--> statement-breakpoint
ALTER TABLE "costs"."usage_keys" DROP CONSTRAINT "usage_keys_organization_id_fkey";
--> statement-breakpoint
DROP TABLE "activity"."activity_logs";
--> statement-breakpoint
DROP TABLE "search"."chunks";
--> statement-breakpoint
DROP TABLE "search"."embeddings";
--> statement-breakpoint
DROP TABLE "identity"."invitations";
--> statement-breakpoint
DROP TABLE "identity"."memberships";
--> statement-breakpoint
DROP TABLE "costs"."model_prices";
--> statement-breakpoint
DROP TABLE "identity"."organizations";
--> statement-breakpoint
DROP TABLE "search"."searches";
--> statement-breakpoint
DROP TABLE "search"."spaces";
--> statement-breakpoint
DROP TABLE "costs"."usage_events";
--> statement-breakpoint
DROP TABLE "costs"."usage_keys";
--> statement-breakpoint
DROP TABLE "identity"."users";
--> statement-breakpoint
DROP TYPE "identity"."membership_role";
--> statement-breakpoint
DROP TYPE "identity"."organization_kind";
--> statement-breakpoint
DROP TYPE "identity"."platform_role";
--> statement-breakpoint
DROP TYPE "costs"."price_unit";
--> statement-breakpoint
DROP TYPE "search"."search_mode";
--> statement-breakpoint
DROP TYPE "search"."space_distance";
--> statement-breakpoint
DROP TYPE "search"."space_status";
--> statement-breakpoint
DROP TYPE "costs"."usage_status";
--> statement-breakpoint
DROP TYPE "search"."visibility";
--> statement-breakpoint
DROP SCHEMA "activity";
--> statement-breakpoint
DROP SCHEMA "costs";
--> statement-breakpoint
DROP SCHEMA "identity";
--> statement-breakpoint
DROP SCHEMA "search";
--> statement-breakpoint
-- managed: schema partitions
drop schema if exists partitions;
