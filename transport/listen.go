package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// lookupTimeout bounds the resolving of a listen address. Looking up a name nobody answers for can take 10 s and
// more, and a server that is starting should say so at once.
const lookupTimeout = time.Second

// resolver is the part of net.Resolver the check needs.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// CheckListener decides whether a server may listen on addr, "host:port" as given to the named flag. Others may reach
// it under TLS, or where the operator typed --insecure: exposable is true then. Else only loopback addresses may be
// listened on: no host, an unspecified address, and a name of which any address is not loopback are refused. The error
// names the flag, the address and the ways out. It is nil for an address that may be used; whether it can be bound is
// found out by binding it.
func CheckListener(flag, addr string, exposable bool) error {
	return checkListener(net.DefaultResolver, flag, addr, exposable)
}

func checkListener(r resolver, flag, addr string, exposable bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s %q is not host:port: %w; write it like 127.0.0.1:7000", flag, addr, err)
	}
	if exposable {
		return nil
	}
	why := exposed(r, host)
	if why == "" {
		return nil
	}
	return fmt.Errorf("%s %s: %s, and there is no TLS; give --cert, --key and --cacert (scope-registry certs --help), bind a loopback "+
		"address such as 127.0.0.1, or add --insecure if everybody who can reach this address may control the cluster", flag, addr, why)
}

// exposed says why host is not loopback alone, or "" when it is.
func exposed(r resolver, host string) string {
	if host == "" {
		return "an address without a host listens on every interface"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return exposedIP(ip)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	ips, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return fmt.Sprintf("%q could not be resolved within %v to see whether it is loopback (%v)", host, lookupTimeout, err)
	}
	if len(ips) == 0 {
		return fmt.Sprintf("%q resolves to no address", host)
	}
	for _, ip := range ips {
		if why := exposedIP(ip); why != "" {
			return fmt.Sprintf("%q resolves to %v: %s", host, ip, why)
		}
	}
	return ""
}

func exposedIP(ip netip.Addr) string {
	switch ip = ip.Unmap(); {
	case ip.IsLoopback():
		return ""
	case ip.IsUnspecified():
		return "it listens on every interface"
	default:
		return "it is not a loopback address"
	}
}
