#!/usr/bin/env bash
# Makes a Debian package of a built wsgate: `packaging/deb.sh [BINARY] [FOLDER]`, by default of
# target/release/wsgate into target/debian. Needs dpkg-deb and nothing else.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly binary=${1:-target/release/wsgate} into=${2:-target/debian}
version=$("$binary" --version | cut -d' ' -f2)
readonly version architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -Dm755 "$binary" "$root/usr/bin/wsgate"
install -Dm644 conf/systemd/wsgate.service "$root/lib/systemd/system/wsgate.service"
install -Dm644 conf/wsgate.toml "$root/usr/share/doc/wsgate/examples/wsgate.toml"
install -Dm644 conf/reference.toml "$root/usr/share/doc/wsgate/examples/reference.toml"
install -Dm644 LICENSE-MIT "$root/usr/share/doc/wsgate/LICENSE-MIT"
install -Dm644 LICENSE-APACHE "$root/usr/share/doc/wsgate/LICENSE-APACHE"
install -d "$root/etc/wsgate" "$root/usr/share/man/man1" \
    "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
    "$root/usr/share/fish/vendor_completions.d"
"$binary" man | gzip -9n >"$root/usr/share/man/man1/wsgate.1.gz"
"$binary" completions bash >"$root/usr/share/bash-completion/completions/wsgate"
"$binary" completions zsh >"$root/usr/share/zsh/vendor-completions/_wsgate"
"$binary" completions fish >"$root/usr/share/fish/vendor_completions.d/wsgate.fish"

install -d "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: wsgate
Version: $version
Architecture: $architecture
Maintainer: The wsgate authors <wsgate@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: libc6 (>= 2.36), libgcc-s1
Recommends: ca-certificates
Section: net
Priority: optional
Description: WebSocket edge
 TLS, policy, sticky upstreams and liveness for WebSocket servers: a reverse
 proxy, or a sidecar. The service starts once /etc/wsgate/wsgate.toml is there
 and it is enabled: systemctl enable --now wsgate.
CONTROL

# Nothing is started: there is no configuration that would fit everybody.
cat >"$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
POSTINST
cat >"$root/DEBIAN/postrm" <<'POSTRM'
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
POSTRM
cat >"$root/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then systemctl disable --now wsgate || true; fi
PRERM
chmod 755 "$root"/DEBIAN/{postinst,postrm,prerm}

mkdir -p "$into"
dpkg-deb --root-owner-group -Zgzip -b "$root" "$into/wsgate_${version}_$architecture.deb"
