# Member a of a pair with a witness that hands out addresses: dhcpd follows the role, its configuration and leases
# follow the primary. b has the addresses the other way round, mode "replica", node_id "b" and priority 100, and the
# same blocks. As /etc/holdfast/holdfast.hcl, mode 600, with `secret` and `root-secret` beside it, and the two
# programs from packaging/hooks.
#
# On both hosts: `systemctl disable --now isc-dhcp-server`, and a drop-in (`systemctl edit holdfast`) without
# which the agent can write none of these files:
#
#   [Service]
#   ReadWritePaths=/etc/dhcp /var/lib/dhcp
#   CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE

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
  }
}

sync_files "dhcp" {
  paths       = ["/etc/dhcp", "/var/lib/dhcp"]
  exclude     = ["*~", "*.tmp"]
  on_change   = "/etc/holdfast/dhcp-changed.sh"
  on_takeover = "/etc/holdfast/dhcp-takeover.sh"

  # No leases, no takeover: an address given twice is worse than a minute without new ones. On a new cluster:
  # `touch /var/lib/dhcp/dhcpd.leases` on a.
  veto = true
}

service "dhcp" {
  unit          = "isc-dhcp-server.service"
  start_timeout = "10s"
  stop_timeout  = "10s"
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
