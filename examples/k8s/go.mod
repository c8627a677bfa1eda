module github.com/vpcnet/vpcnet/examples/k8s

go 1.26.8

require (
	github.com/google/go-cmp v0.7.0
	github.com/vpcnet/vpcnet v0.0.0
)

require (
	github.com/google/nftables v0.3.0 // indirect
	github.com/mdlayher/netlink v1.7.3-0.20250113171957-fbb4dce95f42 // indirect
	github.com/mdlayher/socket v0.5.1 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/vpcnet/vpcnet => ../..
