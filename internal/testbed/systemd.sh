#!/bin/bash
# The first process of new pid, mount, network, ipc, uts and cgroup namespaces: a real
# systemd over a copy-on-write view of this machine's root. Of the units that are
# installed there are only the basic targets and journald. See systemd.go.
set -euo pipefail
mount --make-rprivate /
mount -t tmpfs tmpfs /media
mkdir -p /media/{up,work,root,keep}
mount -t overlay overlay -o lowerdir=/,upperdir=/media/up,workdir=/media/work /media/root
cd /media/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
	IFS=: read -r name major minor <<<"$node"
	mknod -m 666 "dev/$name" c "$major" "$minor"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch dev/console
ip link set lo up

units=lib/systemd/system keep=/media/keep
for unit in basic sysinit sockets timers paths slices local-fs local-fs-pre swap shutdown umount final multi-user network network-pre; do
	cp -a "$units/$unit.target" "$keep" 2>/dev/null || true
done
cp -a "$units"/systemd-journald{.service,.socket,-dev-log.socket} "$units/user.slice" "$keep"
mkdir -p "$keep"/{sysinit,sockets}.target.wants
ln -s ../systemd-journald.service "$keep/sysinit.target.wants/"
ln -s ../systemd-journald.socket "$keep/sockets.target.wants/"
rm -rf etc/systemd/system usr/lib/systemd/system-generators "$units"
mkdir etc/systemd/system
cp -a "$keep" usr/lib/systemd/system
rm -f etc/fstab usr/sbin/policy-rc.d # which keeps packages from starting services
echo 0123456789abcdef0123456789abcdef >etc/machine-id
mkdir -p var/log/journal old
pivot_root . old
umount -l /old
mount --make-rshared / # as systemd has it where it boots; credentials are mounted by way of it
exec env -i container=testbed PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
	/lib/systemd/systemd --system --unit=multi-user.target --log-target=journal
