# To be sourced: unpack_debian <suite> <package> <folder> <programs> <left-out>
#   Unpacks a package of Debian and all that it needs, its own libc included, into <folder>, without touching the host's
#   packages or libc. <programs>: the folder in it whose programs are to run. <left-out>: packages that these never load,
#   as an extended regular expression of whole names.
unpack_debian() {
  # the Debian mirror and the signing key that this host already uses
  local suite=$1 package=$2 root=$3 bin=$3/$4 leftout=$5
  local codename mirror key=/usr/share/keyrings/debian-archive-keyring.gpg apt=() w=$root.apt ld program
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  mirror=$(apt-get update --print-uris | sed -n "s#^'\(.*\)/dists/$codename/InRelease'.*#\1#p" | head -n1)
  [ -n "$mirror" ] || { echo "no '$codename' entry in this host's apt sources" >&2; return 1; }
  rm -rf "$root" "$w"; mkdir -p "$root" "$w"/{lists/partial,cache/archives/partial,parts,debs}; : >"$w/status"
  echo "deb [signed-by=$key] $mirror $suite main" >"$w/sources.list"
  apt=(-qq -o Dir::Etc::sourcelist="$w/sources.list" -o Dir::Etc::sourceparts="$w/parts" -o Dir::State="$w"
    -o Dir::State::lists="$w/lists" -o Dir::State::status="$w/status" -o Dir::Cache="$w/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3)
  apt-get "${apt[@]}" update >&2
  apt-get "${apt[@]}" install -y --no-install-recommends --print-uris "$package" |
    sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" | grep -vxE "$leftout" >"$w/packages"
  (cd "$w/debs" && xargs -a "$w/packages" apt-get "${apt[@]}" download >&2)
  for deb in "$w"/debs/*.deb; do dpkg -x "$deb" "$root"; done
  # each program runs through the loader and libraries it was built for
  ld=$(echo "$root"/usr/lib/*-linux-gnu/ld-linux*.so.*)
  mv "$bin" "$bin.real"; mkdir "$bin"
  for program in "$bin.real"/*; do
    printf '#!/bin/sh\nexec "%s" --inhibit-cache --library-path "%s" --argv0 "%s" "%s" "$@"\n' \
      "$ld" "${ld%/*}" "$bin/${program##*/}" "$program" >"$bin/${program##*/}"
  done
  chmod a+rX "${root%/*}"; chmod -R a+rX "$root"; chmod a+x "$bin"/*
  rm -rf "$w"
}
# As whom a server runs, which none does as root: as <command>
if [ "$(id -u)" = 0 ]; then
  owner=postgres; id -u postgres >/dev/null 2>&1 || owner=nobody
  as() { setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups -- "$@"; }
else
  owner=$(id -un); as() { "$@"; }
fi
free_port() {
  local p; for p in $(shuf -i 50000-59999 -n 50); do
    (: <"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }
  done; echo "no free port" >&2; return 1
}
