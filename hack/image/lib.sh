# shellcheck shell=bash
# Building an image archive and getting it into the local cluster. Sourced, never run.

IMAGE_HACK=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly IMAGE_HACK
# shellcheck source=../cluster/lib.sh
source "$IMAGE_HACK/../cluster/lib.sh"

readonly CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

# The files of the product's image: lay_out ROOT BINARY
lay_out() {
	local root=$1 binary=$2
	mkdir -p "$root/etc/ssl/certs" "$root/tmp"
	chmod 1777 "$root/tmp"
	install -m 755 "$binary" "$root/mailrelay"
	install -m 644 "$CERTIFICATES" "$root$CERTIFICATES"
	echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' >"$root/etc/passwd"
	echo 'nonroot:x:65532:' >"$root/etc/group"
	echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
}

digest_of() { cat "$@" | sha256sum | cut -c1-16; }

archive_of() { echo "$CACHE/images/$1-$2.tar"; } # NAME DIGEST

# Builds an archive from a context folder with a store of its own that is thrown
# away: build_archive IMAGE CONTAINERFILE CONTEXT ARCHIVE
build_archive() {
	local image=$1 file=$2 context=$3 archive=$4 store log
	store=$(mktemp -d /var/tmp/mailrelay-image.XXXXXX)
	log=$store.log
	mkdir -p "$(dirname "$archive")"
	if ! buildah_in "$store" bud --quiet --isolation=chroot --format=docker --tag="$image" --file="$file" "$context" >"$log" 2>&1 ||
		! { rm -f "$archive.new" && buildah_in "$store" push --quiet "$image" "docker-archive:$archive.new:$image" >>"$log" 2>&1; }; then
		tail -n 20 "$log" >&2
		die "could not build the image $image; the whole output is in $log"
	fi
	mv "$archive.new" "$archive"
	rm -rf "$store" "$log"
}

buildah_in() {
	local store=$1
	shift
	buildah --storage-driver=vfs --root="$store/root" --runroot="$store/run" "$@"
}

# Loads an archive unless exactly it is loaded: load_archive NAME IMAGE DIGEST
load_archive() {
	local name=$1 image=$2 digest=$3 mark=$STATE/images/$1
	[[ $CLUSTER == local ]] || return 0
	[[ -S $CONTAINERD_SOCKET ]] || die "the cluster is not up: make cluster-up"
	if [[ -e $mark && $(<"$mark") == "$digest" && -n $(ctr_local images list --quiet "name==$image") ]]; then
		return
	fi
	"$CLUSTER_HACK/load-image" "$(archive_of "$name" "$digest")"
	mkdir -p "$STATE/images"
	echo "$digest" >"$mark"
	say "loaded $image"
}

# Archives of earlier builds of the same image are of no use to anyone.
forget_others() {
	local name=$1 keep=$2 archive
	for archive in "$CACHE/images/$name"-*.tar; do
		[[ $archive == "$keep" ]] || rm -f "$archive"
	done
}
