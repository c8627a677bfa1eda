# Makes the mounts of a machine in the mount namespace that unshare(1) has made: what its
# daemons write in the usual places goes to directories of the machine's own. Then it says so
# and holds the namespace.
set -eu
dir=$1 name=$2 cgroup=$3
# /sys shows the links of the network namespace in which it was mounted.
mkdir "$dir/cgroup"
mount --rbind /sys/fs/cgroup "$dir/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$dir/cgroup" /sys/fs/cgroup
for place in /etc /opt /var/lib /var/log; do
	own=$dir/places/$(echo "$place" | tr / -)
	mkdir -p "$own/upper" "$own/work"
	mount -t overlay overlay -o "lowerdir=$place,upperdir=$own/upper,workdir=$own/work" "$place"
done
# The file systems of images and pods cannot be overlays themselves.
for place in containerd kubelet; do
	mkdir -p "$dir/$place" "/var/lib/$place"
	mount --bind "$dir/$place" "/var/lib/$place"
done
# Settings of the whole kernel that kubelet writes.
mkdir "$dir/settings"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	own=$dir/settings/$(basename "${setting%=*}")
	echo "${setting#*=}" >"$own"
	[ ! -e "/proc/sys/${setting%=*}" ] || mount --bind "$own" "/proc/sys/${setting%=*}"
done
mount -t tmpfs tmpfs /run
mkdir /run/netns /run/lock
mount --make-rshared /
hostname "$name"
# The cgroup of the pods. One of cpuset takes no process before it has CPUs.
for controller in /sys/fs/cgroup/*; do
	mkdir -p "$controller/$cgroup" 2>/dev/null || true
done
for file in cpuset.cpus cpuset.mems; do
	part=/sys/fs/cgroup/cpuset
	for below in $(echo "$cgroup" | tr / ' '); do
		cat "$part/$file" >"$part/$below/$file"
		part=$part/$below
	done
done
: >"$dir/mounted"
exec sleep infinity
