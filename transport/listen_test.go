package transport

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// names is a resolver of fixed answers. A name it does not have is looked up until the deadline, as that of a
// stopped container is.
type names map[string][]netip.Addr

func (n names) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if ips, ok := n[host]; ok {
		return ips, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestCheckListener(t *testing.T) {
	resolver := names{
		"localhost": addrs("127.0.0.1", "::1"),
		"mixed":     addrs("127.0.0.1", "10.0.0.7"),
		"nothing":   nil,
	}
	for _, tc := range []struct{ addr, why string }{
		{"127.0.0.1:7000", ""},
		{"127.9.9.9:0", ""},
		{"[::1]:7000", ""},
		{"[::ffff:127.0.0.1]:7000", ""},
		{"localhost:7000", ""},
		{":7000", "every interface"},
		{"0.0.0.0:7000", "every interface"},
		{"[::]:7000", "every interface"},
		{"[::ffff:0.0.0.0]:7000", "every interface"},
		{"10.0.0.7:7000", "not a loopback address"},
		{"[fe80::1%eth0]:7000", "not a loopback address"},
		{"mixed:7000", `"mixed" resolves to 10.0.0.7`},
		{"nothing:7000", "no address"},
	} {
		err := checkListener(resolver, "--listen-peer", tc.addr, false)
		if tc.why == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.addr, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s is accepted", tc.addr)
			continue
		}
		for _, part := range []string{"--listen-peer", tc.addr, tc.why, "TLS", "127.0.0.1", "--insecure"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", tc.addr, err, part)
			}
		}
		if err := checkListener(resolver, "--listen-peer", tc.addr, true); err != nil {
			t.Errorf("%s with --insecure: %v", tc.addr, err)
		}
	}
	for _, bad := range []string{"", "127.0.0.1", "[::1", "a:b:c"} {
		err := checkListener(resolver, "--listen-peer", bad, true)
		if err == nil || !strings.Contains(err.Error(), "not host:port") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCheckListenerResolvesWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := checkListener(names{}, "--listen-http", "gone:80", false)
		if err == nil || !strings.Contains(err.Error(), "could not be resolved") {
			t.Errorf("%v", err)
		}
		if took := time.Since(start); took != lookupTimeout {
			t.Errorf("took %v", took)
		}
	})
}

func TestCheckListenerForReal(t *testing.T) {
	if err := CheckListener("--listen-http", "127.0.0.1:0", false); err != nil {
		t.Error(err)
	}
	if err := CheckListener("--listen-http", "0.0.0.0:0", false); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
