#!/bin/sh
# Becomes the first process of a machine of its own: private mounts, processes, network, host name, control groups.
# Called as: unshare ... sh machine.sh STAGE. Nothing of the real machine may be changed from in here: every mount is
# made read-only first, what must be written lies on fresh tmpfs, and the last check before systemd starts refuses to
# go on if anything else can be written. systemd finds no units but those of the test: not the distribution's
# tmpfiles, sysctl or remount services, which would clean /tmp or set kernel variables for everybody.
set -eu
stage=$1
mount --make-rprivate /
cut -d' ' -f5 /proc/self/mountinfo | sort -u | while read -r point; do
    case $point in
        /proc | /proc/*) ;;
        *) mount -o remount,bind,ro "$point" 2>/dev/null || true ;;  # whatever stays writable is found below
    esac
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/box /run/lock /run/systemd/system
for part in tree python site units opt; do
    [ -e "$stage/$part" ] || continue
    mkdir "/run/box/$part"
    mount --bind "$(readlink -f "$stage/$part")" "/run/box/$part"
    mount -o remount,bind,ro "/run/box/$part"
done
mkdir /run/box/out
mount --bind "$stage/out" /run/box/out   # the one place that the test reads back
mount -o remount,bind,rw /run/box/out
for place in /tmp /var /root /home /srv /mnt /media /opt /dev/shm /sys/fs/cgroup; do
    [ -d "$place" ] && mount -t tmpfs -o mode=755 tmpfs "$place"
done
chmod 1777 /tmp
mkdir /opt/zoned
mount --bind /run/box/opt /opt/zoned
# A copy of what programs look up in /etc.
mkdir -p /run/box/etc/systemd/system
for part in alternatives passwd group nsswitch.conf hosts machine-id localtime os-release ld.so.cache ssl resolv.conf; do
    [ ! -e "/etc/$part" ] || cp -a "/etc/$part" /run/box/etc/
done
mount --bind /run/box/etc /etc
mkdir -p /var/lib /var/tmp /var/log /var/cache
chmod 1777 /var/tmp
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
ip link set lo up

# The refusal. Fields of mountinfo: 5 mount point, 6 options of this mount; after " - ": type, source.
writable=$(awk '$6 ~ /^rw/ { split($0, half, " - "); split(half[2], fs, " ");
    if (fs[1] != "tmpfs" && fs[1] != "proc" && fs[1] != "cgroup2" && fs[1] != "devpts" && $5 != "/run/box/out") print $5 }' /proc/self/mountinfo)
[ -z "$writable" ] || { echo "machine.sh: would be writable: $writable" >&2; exit 99; }
grep -q ' /proc/sys ro' /proc/self/mountinfo || { echo "machine.sh: kernel variables can be set" >&2; exit 99; }
for place in / /usr; do
    ! touch "$place/.zoned-test" 2>/dev/null || { echo "machine.sh: $place can be written" >&2; exit 99; }
done
for place in /tmp /var /run /root /etc; do
    mountpoint -q "$place" || { echo "machine.sh: $place is not private" >&2; exit 99; }
done
ls -A /tmp | grep -q . && { echo "machine.sh: /tmp is not private" >&2; exit 99; }
[ "${2:-}" != check ] || exit 0

exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/box/units SYSTEMD_GENERATOR_PATH=/nonexistent SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nonexistent \
    SYSTEMD_SYSTEM_PRESET_PATH=/nonexistent \
    /lib/systemd/systemd --system --unit=box.target --show-status=no --log-target=console --log-level=info
