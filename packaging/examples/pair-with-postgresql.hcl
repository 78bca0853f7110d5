# Member a of a pair with a witness and fence devices that moves a PostgreSQL along: a unit that may run on one host
# alone. b has the addresses the other way round, mode "replica", node_id "b" and priority 100. As
# /etc/holdfast/holdfast.hcl, mode 600, with `secret`, `root-secret` and `ipmi` beside it.
#
# Holdfast does not replicate the database. Its directory is on a volume that both hosts reach, here
# /srv/database, and two servers on it would destroy it. Three things keep the second one away:
#
#   1. The volume's own lock, since the other host may still be stopping its unit when this one starts: ext4 with
#      multi-mount protection (`mkfs.ext4 -O mmp`) refuses the second mount. Do not go without such a lock.
#   2. The fence devices below: a host that vanished is off before anything starts here.
#   3. On both hosts `echo manual > /etc/postgresql/15/main/start.conf` (Debian's postgresql.service starts every cluster
#      that is `auto`, whatever is enabled), `noauto` in /etc/fstab for /srv/database, and a drop-in
#      (`systemctl edit postgresql@15-main`) that mounts with the unit and unmounts with it:
#
#        [Unit]
#        RequiresMountsFor=/srv/database
#        BindsTo=holdfast.service
#        After=holdfast.service
#
#        [Service]
#        ExecStopPost=+/bin/umount /srv/database
#
#      and then `systemctl daemon-reload`, for /etc/fstab.
#
# `systemctl stop holdfast` on the primary stops the database first: in a drop-in (`systemctl edit holdfast`)
# TimeoutStopSec=60.
#
# A database with its own streaming replication needs none of this: leave both servers running, and promote the
# one here with a `pre_primary` hook.

replication {
  mode            = "primary"
  node_id         = "a"
  listen_addr     = "10.0.0.1:9001"
  peer_addrs      = ["10.0.0.2:9001"]
  witness_addrs   = ["10.0.0.3:9002"]
  secret_key_file = "secret"
  state_dir       = "/var/lib/holdfast"

  ha {
    enabled  = true
    priority = 50

    virtual_ip {
      address   = "10.0.0.100/24"
      interface = "eth0"
    }

    # A host with /etc/holdfast/no-takeover does not take over, and says what is in that file.
    pre_failover_script  = "/etc/holdfast/pre-failover.sh"
    pre_failover_veto    = true
    post_failover_script = "/etc/holdfast/post-failover.sh"
  }
}

service "database" {
  unit = "postgresql@15-main.service"

  # The recovery after a crash is in here, and so is the wait of multi-mount protection after one (some 10 s).
  # Clients wait as long.
  start_timeout = "60s"
  stop_timeout  = "30s"
  on_failure    = "give_up"
}

# Where this member is primary, the database must answer; elsewhere there is nothing to ask. Three failures in a row,
# and a member in sync without such a fault takes over.
check "database" {
  exec     = ["/etc/holdfast/postgresql-check.sh", "/var/run/postgresql"]
  interval = "2s"
  timeout  = "3s"
  rise     = 2
  fall     = 3
}

fence "ipmi-a" {
  agent  = "fence_ipmilan"
  member = "a"
  params {
    ip            = "10.0.9.11"
    username      = "holdfast"
    password_file = "ipmi"
    lanplus       = true
  }
}

fence "ipmi-b" {
  agent  = "fence_ipmilan"
  member = "b"
  params {
    ip            = "10.0.9.12"
    username      = "holdfast"
    password_file = "ipmi"
    lanplus       = true
  }
}

store {
  data_dir             = "/var/lib/holdfast/store"
  listen               = "0.0.0.0:9000"
  root_access_key      = "admin"
  root_secret_key_file = "root-secret"
}

api {
  listen = "127.0.0.1:8080"
}
