# SPDX-License-Identifier: Apache-2.0
#
#	unshare -m sh -e daemon.sh docker|ufw|firewalld|firewalld-pods VARIANT
#
# Lets a firewall itself make its rules in the network namespace of the caller, and ends it as by
# SIGKILL, so that the rules stay. Files of the system do not change.

variant=$2
mount --make-rprivate /
mount -t tmpfs none /run
for dir in /etc/ufw /etc/default /etc/firewalld; do
	if [ -d $dir ]; then
		mkdir -p /run/copy$dir
		cp -a $dir/. /run/copy$dir
		mount --bind /run/copy$dir $dir
	fi
done
# The firewalls run iptables, which is a link to the program of a variant.
if [ "$variant" = legacy ]; then
	mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi
fi

# await COMMAND...: runs a command until it succeeds, for a minute.
await() {
	tries=0
	until "$@" >/run/await.log 2>&1; do
		tries=$((tries + 1))
		if [ $tries -ge 300 ]; then
			cat /run/await.log /run/daemon.log
			exit 1
		fi
		sleep 0.2
	done
}

case $1 in
docker)
	mount -t tmpfs none /sys/fs/cgroup
	mkdir /sys/fs/cgroup/devices /sys/fs/cgroup/unified
	mount -t cgroup2 none /sys/fs/cgroup/unified 2>/run/cgroup.log || true
	mount -t cgroup -o devices none /sys/fs/cgroup/devices 2>>/run/cgroup.log || true
	dockerd --experimental --ip6tables --ipv6 --fixed-cidr-v6 fd00:d::/64 --storage-driver vfs \
		--data-root /run/data --exec-root /run/exec -H unix:///run/docker.sock -p /run/docker.pid >/run/daemon.log 2>&1 &
	await docker -H unix:///run/docker.sock version
	kill -9 $! "$(cat /run/exec/containerd/containerd.pid)"
	;;
ufw)
	ufw --force enable
	;;
firewalld | firewalld-pods)
	mkdir -p /run/dbus
	cat >/run/bus.conf <<-EOF
		<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
	EOF
	if [ "$1" = firewalld-pods ]; then
		sed -i 's/^IPv6_rpfilter=.*/IPv6_rpfilter=no/' /etc/firewalld/firewalld.conf
		firewall-offline-cmd --zone=trusted --add-interface=eni+
		firewall-offline-cmd --new-policy=to-pods
		firewall-offline-cmd --policy=to-pods --add-ingress-zone=ANY
		firewall-offline-cmd --policy=to-pods --add-egress-zone=trusted
		firewall-offline-cmd --policy=to-pods --set-target=ACCEPT
	fi
	dbus-daemon --config-file=/run/bus.conf --nofork >/run/bus.log 2>&1 &
	bus=$!
	firewalld --nofork --nopid >/run/daemon.log 2>&1 &
	await firewall-cmd --state
	kill -9 $! $bus
	;;
esac
