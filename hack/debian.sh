#!/usr/bin/env bash
# Installs the named Debian packages that are missing; a warm run takes milliseconds.
# The packages' services are not started, and nothing installed is ever removed.
#
# usage: hack/debian.sh PACKAGE...
set -euo pipefail

readonly LOCK=/var/lock/mailrelay-debian.lock
readonly POLICY=/usr/sbin/policy-rc.d

say() { printf '%s\n' "debian: $*" >&2; }

# Prints those of the named packages that dpkg does not have.
missing_of() {
	local installed package
	installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
	for package; do
		grep -qx "$package installed" <<<"$installed" || printf '%s\n' "$package"
	done
}

# Repeats a command a few times: package mirrors have bad moments, and another
# apt may hold the lists for a while.
retry() {
	local attempt
	for attempt in 1 2 3 4; do
		if "$@"; then return 0; fi
		say "attempt $attempt failed: $*"
		sleep $((attempt * 3))
	done
	return 1
}

# Forbids service starts for as long as the packages are being set up. A policy
# file that a killed run of this script left behind is not taken for the machine's.
forbid_services() {
	if [[ -e $POLICY ]] && ! grep -q mailrelay "$POLICY"; then
		mv "$POLICY" "$POLICY.mailrelay-saved"
	fi
	trap allow_services EXIT
	printf '#!/bin/sh\n# written by mailrelay hack/debian.sh, removed when it ends\nexit 101\n' >"$POLICY"
	chmod 755 "$POLICY"
}

allow_services() {
	rm -f "$POLICY"
	if [[ -e $POLICY.mailrelay-saved ]]; then
		mv "$POLICY.mailrelay-saved" "$POLICY"
	fi
}

apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@"; }

main() {
	if (($# == 0)); then
		say "usage: hack/debian.sh PACKAGE..."
		exit 2
	fi
	if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
		say "no apt on this machine: please install what these Debian packages hold: $*"
		exit 1
	fi

	local missing
	mapfile -t missing < <(missing_of "$@")
	((${#missing[@]} > 0)) || exit 0
	if ((EUID != 0)); then
		say "not root: please run as root: apt-get install --no-install-recommends ${missing[*]}"
		exit 1
	fi

	exec 9>"$LOCK"
	flock 9
	mapfile -t missing < <(missing_of "$@") # another run may just have done it
	((${#missing[@]} > 0)) || exit 0

	say "installing ${missing[*]}"
	local log
	log=$(mktemp /tmp/mailrelay-apt.XXXXXX)
	forbid_services
	if ! { retry apt update && retry apt install -y --no-install-recommends --no-remove "${missing[@]}"; } >"$log" 2>&1 9>&-; then
		tail -n 20 "$log" >&2
		say "could not install ${missing[*]}; the whole output is in $log"
		exit 1
	fi
	rm -f "$log"
	say "installed ${missing[*]}"
}

main "$@"
