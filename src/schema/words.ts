import { sql } from 'drizzle-orm'
import { managedExecute, managedFunction } from './managed.ts'
import { isVisible, scopedOrganization } from './policies.ts'
import {
  arm,
  chunkFilters,
  filterArguments,
  filterParameters,
  filterTypes,
  tookMs,
  typeFilter,
} from './retrieval.ts'
import { chunks, language } from './search.ts'

/**
 * A query as typed into a search box, by the rules of a language: words, "phrases", or, -exclusions, and
 * the beginnings of wor*, up to 16 of them.
 */
const queryTerms = managedFunction(
  'search.query_terms(search.language, text)',
  sql`
create or replace function search.query_terms(language ${language}, query text)
returns tsquery language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  config regconfig := language::text::regconfig;
  beginning constant text := '(^|\\s)(-?)([^-\\s"*()&|!:<>''\\\\][^\\s"*()&|!:<>''\\\\]*)\\*(?=\\s|$)';
  -- A line of dashes excludes nothing: Postgres would take each for one more negation, and fail at 32.
  dashes constant text := '(^|[\\s"!&|():<])-(?:[\\s"!&|():<]*-)+';
  terms tsquery := websearch_to_tsquery(config,
    regexp_replace(regexp_replace(query, beginning, '\\1', 'g'), dashes, '\\1', 'g'));
  part text[];
  prefix tsquery;
begin
  -- Each reads the index from its beginning to its end.
  for part in select distinct m[2:3] from regexp_matches(query, beginning, 'g') m order by 1 limit 16 loop
    prefix := to_tsquery(config, '''' || part[2] || ''':*');
    if numnode(prefix) > 0 then
      prefix := case when part[1] = '-' then !! prefix else prefix end;
      terms := case when numnode(terms) = 0 then prefix else terms && prefix end;
    end if;
  end loop;
  return terms;
end $$`,
)

const matchingSignature = `search.matching_chunks(text, integer, ${filterTypes}, boolean)`

/**
 * The chunks that contain the words of a query, each by the rules of its own language, best first; if there
 * are none, those with words that look like them. Of a long query, the words of the first 1,000 characters:
 * each is looked up in each language.
 *
 * SECURITY DEFINER, with the policy's own condition in it: neither @@ nor %> is leakproof, so that under row
 * level security Postgres would not use the GIN indexes.
 */
const matchingChunks = managedFunction(
  matchingSignature,
  sql`
create or replace function search.matching_chunks(query text, max_rows integer, ${filterParameters}, timed boolean)
returns table (${arm('ranks real[]')}) rows 1
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  began timestamptz := clock_timestamp();
  organization uuid := ${scopedOrganization};
  filters text := ${typeFilter} || ${chunkFilters};
  spoken ${language};
  languages ${language}[] := '{}';
  terms tsquery;
  conditions text[] := '{}';
  rank text;
  ranking text;
  alike text;
  -- A word or a phrase, and whether it is excluded.
  token constant text := '(-*)("[^"]*"?|[^\\s"]+)';
begin
  truncated := false;
  if length(query) > 1000 then
    query := regexp_replace(left(query, 1000), '\\S*$', '');
  end if;
  -- One step of the index a language.
  loop
    select c.language into spoken from ${chunks} c
      where c.organization_id = organization and (spoken is null or c.language > spoken)
      order by c.language limit 1;
    exit when not found;
    languages := languages || spoken;
  end loop;
  foreach spoken in array languages loop
    terms := search.query_terms(spoken, query);
    if numnode(terms) > 0 then
      conditions := conditions || format('(c.terms @@ %L::tsquery%s)', terms,
        case when cardinality(languages) > 1 then format(' and c.language = %L', spoken) else '' end);
      rank := format('ts_rank(c.terms, %L::tsquery, 1)', terms);
      ranking := case when cardinality(languages) = 1 then rank
        else concat(ranking, format(' when c.language = %L then ', spoken), rank) end;
    end if;
  end loop;
  if cardinality(conditions) > 0 then
    plan := 'words';
    if cardinality(languages) > 1 then
      ranking := 'case' || ranking || ' end';
    end if;
    -- 1: a rank is divided by 1 + the logarithm of the length, or long chunks would always win.
    execute $query$
      with found as (
        select c.id, $query$ || ranking || $query$ as rank from ${chunks} c
        where c.organization_id = $1 and ($query$ || array_to_string(conditions, ' or ') || $query$)
          and ${isVisible(sql`c.owner_id`, sql`c.visibility`)} $query$ || filters || $query$
        order by rank desc, c.id limit $3)
      select array_agg(f.id), array_agg(f.rank) from found f $query$
      into chunk_ids, ranks using organization, query, max_rows, ${filterArguments};
    if chunk_ids is null then
      -- Of the words that mean something, and are not excluded, each has to look like one of the chunk's.
      select string_agg(format(' and c.content operator(public.%%>) %L', w.word), ''),
          string_agg(format('public.word_similarity(%L, c.content)', w.word), ' + ')
        into alike, ranking
        from (select distinct word
          from regexp_matches(query, token, 'g') part, regexp_split_to_table(lower(part[2]), '[^[:alnum:]]+') word
          where part[1] = '' and length(word) >= 4 and exists (select from unnest(languages) l
            where numnode(search.query_terms(l, word)) > 0)
          order by word limit 4) w;
      select alike || coalesce(string_agg(format(' and not (c.language = %L and c.terms @@ %L::tsquery)', e.l, e.terms), ''), '')
        into alike
        from (select l, search.query_terms(l, part[2]) as terms
          from regexp_matches(query, token, 'g') part, unnest(languages) l where part[1] <> '') e
        where numnode(e.terms) > 0;
      if alike is not null then
        plan := 'similar words';
        set local pg_trgm.word_similarity_threshold = 0.5;
        execute $query$
          with found as (
            select c.id, ($query$ || ranking || $query$)::real as rank from ${chunks} c
            where c.organization_id = $1 $query$ || alike || $query$
              and ${isVisible(sql`c.owner_id`, sql`c.visibility`)} $query$ || filters || $query$
            order by rank desc, c.id limit $3)
          select array_agg(f.id), array_agg(f.rank) from found f $query$
          into chunk_ids, ranks using organization, query, max_rows, ${filterArguments};
      end if;
    end if;
  end if;
  counted := coalesce(cardinality(chunk_ids), 0);
  took_ms := ${tookMs};
  return next;
end $$`,
)

/** What a search by words calls in the database; in the order in which they are created. */
export const wordObjects = [
  queryTerms,
  matchingChunks,
  ...managedExecute(matchingSignature, 'plinth_app'),
]
