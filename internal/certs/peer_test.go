//go:build peers

package certs

import (
	"os/exec"
	"testing"

	"github.com/scope-registry/scope-registry/internal/access"
)

// TestPeerOpenSSL: OpenSSL, on which curl and redis-cli stand, takes the certificates for what they are.
func TestPeerOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatalf("%v; on Debian: apt-get install openssl", err)
	}
	i := newIssuer(t, "east")
	verify := func(f Files, args ...string) error {
		out, err := exec.CommandContext(t.Context(), "openssl", append(append([]string{"verify", "-x509_strict", "-CAfile", i.CA()}, args...), f.Cert)...).CombinedOutput()
		t.Logf("%v %s", args, out)
		return err
	}
	server, node := i.issue(t, access.Server, "s1", "registry-1", "10.0.0.1"), i.issue(t, access.Node, "n1")
	for _, args := range [][]string{{"-purpose", "sslserver", "-verify_hostname", "registry-1"}, {"-purpose", "sslserver", "-verify_ip", "127.0.0.1"}, {"-purpose", "sslclient"}} {
		if err := verify(server, args...); err != nil {
			t.Errorf("the server's, %v: %v", args, err)
		}
	}
	if err := verify(node, "-purpose", "sslclient"); err != nil {
		t.Error(err)
	}
	if verify(node, "-purpose", "sslserver") == nil || verify(server, "-verify_hostname", "registry-2") == nil {
		t.Error("a node's certificate is good for a server, or a server's for another host")
	}
	i.cluster = "west"
	if verify(i.issue(t, access.Node, "n2"), "-purpose", "sslclient") == nil {
		t.Error("the authority of one cluster signs for another")
	}
}
