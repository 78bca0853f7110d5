# Member a of the lab in compose.yml.

replication {
  mode            = "primary"
  node_id         = "a"
  listen_addr     = "172.30.9.11:9001"
  peer_addrs      = ["172.30.9.12:9001"]
  witness_addrs   = ["172.30.9.13:9002"]
  secret_key_file = "/secrets/secret"
  state_dir       = "/var/lib/holdfast"

  ha {
    enabled  = true
    priority = 50

    virtual_ip {
      address   = "172.30.9.100/24"
      interface = "eth0"
    }
  }
}

store {
  data_dir             = "/var/lib/holdfast/store"
  listen               = "0.0.0.0:9000"
  root_access_key      = "admin"
  root_secret_key_file = "/secrets/root-secret"
}

api {
  listen = "127.0.0.1:8080"
}
