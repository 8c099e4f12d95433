#!/bin/bash
# Puts the real mail servers, name servers and Python packages that the interop tests need into a cache folder.
#
# Nothing is installed or enabled on the machine but plain tools: Debian's mail servers conflict with each other as packages, so each
# is downloaded together with what it depends on and unpacked into a folder of its own; ns.py lays that folder over /usr privately.
# Quick when everything is there. Prints the cache folder on the last line.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
cache=${INTEROP_CACHE:-${CARGO_TARGET_DIR:-$repo/target}/interop}
peers="postfix exim4-daemon-light opensmtpd knot unbound"
# Programs that hand mail to sendmail, all in one folder.
clients="cron logwatch unattended-upgrades apt-listchanges php-cli git-email mutt bsd-mailx libemail-sender-perl libmime-lite-perl libmailtools-perl"

say() { echo "setup: $*" >&2; }

[ "$(id -u)" = 0 ] || { say "must be root: private mounts, and mail servers that change their user"; exit 1; }
command -v apt-get >/dev/null || { say "needs a Debian machine: the mail servers come from its packages"; exit 1; }

updated=
update() {
    [ -n "$updated" ] || apt-get -qq update >&2
    updated=1
}

# Tools, by the command that shows whether they are there.
missing=
need() { command -v "$1" >/dev/null || missing="$missing $2"; }
need python3 python3
need openssl openssl
need unshare util-linux
need setpriv util-linux
need systemd-analyze systemd
need ip iproute2
need strace strace
need sqlite3 sqlite3
need adduser adduser
need strip binutils
need dpkg-shlibdeps dpkg-dev
need man man-db
need lintian lintian
# A browser for the status page, with letters to show.
need chromium "chromium fonts-dejavu-core"
[ -x /lib/systemd/systemd ] || missing="$missing systemd"
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then missing="$missing python3-venv"; fi
if [ -n "$missing" ]; then
    say "installing$missing"
    update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >&2
fi

mkdir -p "$cache"
# fetch FOLDER PACKAGE...
fetch() {
    peer=$1
    shift
    root=$cache/root/$peer
    # What is there is what is wanted now.
    [ "$(cat "$root/.complete" 2>/dev/null)" != "$*" ] || return 0
    say "fetching $*"
    update
    rm -rf "$root" "$cache/debs/$peer"
    mkdir -p "$root" "$cache/debs/$peer/partial"
    # Downloads the packages and every dependency that this machine lacks; installs nothing.
    apt-get -qq -y --download-only --no-install-recommends --reinstall -o Dir::Cache::archives="$cache/debs/$peer" install "$@" >&2
    for deb in "$cache/debs/$peer"/*.deb; do
        case $(basename "$deb") in
            # A newer point release of the C library would not fit the loader outside.
            libc6_* | libc-bin_*) ;;
            *) dpkg -x "$deb" "$root" ;;
        esac
    done
    # The real directories of a merged /usr.
    for dir in bin sbin lib lib64; do
        if [ -d "$root/$dir" ] && [ ! -L "$root/$dir" ]; then
            mkdir -p "$root/usr/$dir"
            cp -a "$root/$dir/." "$root/usr/$dir/"
            rm -rf "${root:?}/$dir"
        fi
    done
    rm -rf "$cache/debs/$peer"
    echo "$*" > "$root/.complete"
}
for peer in $peers; do fetch "$peer" "$peer"; done
# shellcheck disable=SC2086
fetch clients $clients
# For its promtool.
fetch prometheus prometheus
# What administrators make their daily reports with.
fetch pflogsumm pflogsumm
# A judge of man pages.
fetch mandoc mandoc
# What makes the package; config/debian/build calls it.
if ! [ -x "$cache/cargo/bin/cargo-deb" ]; then
    say "building cargo-deb"
    cargo install --quiet --locked --version 3.8.0 --no-default-features --root "$cache/cargo" cargo-deb >&2
fi

if ! cmp -s "$here/requirements.txt" "$cache/venv/requirements.txt"; then
    say "making the Python environment"
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" -q --disable-pip-version-check install -r "$here/requirements.txt" >&2
    cp "$here/requirements.txt" "$cache/venv/requirements.txt"
fi

# A missing peer is a failure, not a skip.
for program in postfix/usr/lib/postfix/sbin/smtpd postfix/usr/sbin/smtp-sink exim4-daemon-light/usr/sbin/exim4 opensmtpd/usr/sbin/smtpd \
    knot/usr/sbin/knotd unbound/usr/sbin/unbound clients/usr/bin/php8.2 clients/usr/bin/mutt clients/usr/bin/bsd-mailx \
    clients/usr/sbin/cron clients/usr/sbin/logwatch clients/usr/bin/unattended-upgrade clients/usr/bin/apt-listchanges pflogsumm/usr/sbin/pflogsumm mandoc/usr/bin/mandoc \
    prometheus/usr/bin/promtool; do
    file=$cache/root/$program
    [ -x "$file" ] || { say "$file is missing"; exit 1; }
    # Not a script.
    [ "$(head -c 2 "$file")" != "#!" ] || continue
    root=$cache/root/${program%%/*}
    if LD_LIBRARY_PATH=$([ ! -d "$root/usr/lib" ] || find "$root/usr/lib" -maxdepth 1 -type d | paste -sd:) ldd "$file" | grep "not found" >&2; then
        say "$file lacks the libraries above"
        exit 1
    fi
done
echo "$cache"
