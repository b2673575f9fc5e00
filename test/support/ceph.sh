#!/usr/bin/env bash
# ceph.sh FOLDER PORT MONITOR_PORT: a Ceph cluster of one disk in memory, with its S3 gateway on PORT of the loopback. In the
# foreground; prints `ready` and ends at SIGTERM. The keys are S3_KEY and S3_SECRET in the environment.
# The gateway alone (its backend on SQLite) would be smaller, but reads wrong bytes of ranges and of uploads in parts.
set -euo pipefail
mkdir -p "$1/mon" "$1/osd" "$1/data"
dir=$(cd "$1" && pwd) port=$2 monitor=$3
fsid=$(</proc/sys/kernel/random/uuid)
disk=$(</proc/sys/kernel/random/uuid)
cat >"$dir/ceph.conf" <<C
[global]
fsid = $fsid
mon_host = v2:127.0.0.1:$monitor/0
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
run_dir = $dir
admin_socket = $dir/\$name.asok
log_file = $dir/\$name.log
mon_cluster_log_file = $dir/cluster.log
pid_file = $dir/\$name.pid
mon_data = $dir/mon
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
osd_data = $dir/osd
osd_objectstore = memstore
osd_class_dir = $(echo /usr/lib/*/rados-classes)
memstore_device_bytes = 4294967296
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
rgw_data = $dir/data
rgw_frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw_enable_usage_log = false
C
ceph=(--conf "$dir/ceph.conf")
monmaptool --create --addv a "[v2:127.0.0.1:$monitor]" --fsid "$fsid" --clobber "$dir/monmap" >/dev/null
ceph-mon "${ceph[@]}" --mkfs -i a --monmap "$dir/monmap"
ceph-mon "${ceph[@]}" -i a -f >"$dir/mon.out" 2>&1 &
pids=($!)
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true; wait' EXIT
trap 'exit 0' INT TERM
timeout 60 ceph "${ceph[@]}" osd new "$disk" >/dev/null
ceph-osd "${ceph[@]}" -i 0 --mkfs --osd-uuid "$disk" >"$dir/mkfs.out" 2>&1
ceph-osd "${ceph[@]}" -i 0 -f >"$dir/osd.out" 2>&1 &
pids+=($!)
timeout 60 radosgw-admin "${ceph[@]}" user create --uid tests --display-name tests \
  --access-key "$S3_KEY" --secret-key "$S3_SECRET" >"$dir/user.json" 2>"$dir/admin.log" || {
  tail -n 5 "$dir/admin.log" >&2
  exit 1
}
radosgw "${ceph[@]}" -n client.rgw -f >"$dir/rgw.out" 2>&1 &
pids+=($!)
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
  kill -0 "${pids[-1]}"
  sleep 0.1
done
echo ready
wait "${pids[-1]}"
