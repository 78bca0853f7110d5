# The witness of the lab in compose.yml.

replication {
  mode            = "witness"
  node_id         = "w"
  listen_addr     = "172.30.9.13:9001"
  peer_addrs      = ["172.30.9.11:9001", "172.30.9.12:9001"]
  secret_key_file = "/secrets/secret"
  state_dir       = "/var/lib/holdfast"

  ha {
    enabled = true
  }
}

api {
  listen = "127.0.0.1:8080"
}
