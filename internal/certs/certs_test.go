package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
)

// issuer is a directory with an authority, and a clock.
type issuer struct {
	Dir
	*Authority
	now time.Time
}

func newIssuer(t *testing.T, cluster string) *issuer {
	t.Helper()
	i := &issuer{Dir: Dir(t.TempDir()), now: time.Now()}
	var err error
	if i.Authority, err = i.Init(cluster, i.now); err != nil {
		t.Fatal(err)
	}
	return i
}

// issue makes certificate and key of somebody, or makes them anew.
func (i *issuer) issue(t *testing.T, role access.Role, id string, hosts ...string) Files {
	t.Helper()
	one, err := i.Dir.Issue(i.Authority, Wish{Who: access.Who{Role: role, ID: id}, Hosts: hosts}, i.now, true)
	if err != nil {
		t.Fatal(err)
	}
	return Files{Cert: one.Cert, Key: one.Key, CA: i.CA()}
}

func opened(t *testing.T, f Files) *Source {
	t.Helper()
	s, err := Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// met is what the two sides of a handshake found.
type met struct {
	client, server error
	who            access.Who
	known          bool
	cert           *x509.Certificate // of the server, as the client saw it
}

func (m met) err() error { return errors.Join(m.client, m.server) }

// meet has a client and a server shake hands.
func meet(t *testing.T, server *Source, required bool, client *tls.Config) met {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	const patience = 10 * time.Second
	var m met
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			m.server = err
			return
		}
		conn := tls.Server(raw, server.Listen(required))
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if m.server = conn.Handshake(); m.server != nil {
			return
		}
		m.who, m.known, m.server = server.Of(conn.ConnectionState())
		_, _ = conn.Write([]byte("x"))
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	_ = conn.SetDeadline(time.Now().Add(patience))
	// That the server refused the certificate is known only when it should answer.
	if _, m.client = conn.Read(make([]byte, 1)); m.client == nil {
		m.cert = conn.ConnectionState().PeerCertificates[0]
	}
	_ = conn.Close()
	<-done
	return m
}

// named is the configuration of a client that connects to a host.
func named(t *testing.T, f Files, host string) *tls.Config {
	t.Helper()
	s, err := OpenClient(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := s.Client().Clone()
	c.ServerName = host
	return c
}

func TestWhoIsWho(t *testing.T) {
	i := newIssuer(t, "east")
	server := opened(t, i.issue(t, access.Server, "s1", "registry-1", "10.0.0.1"))
	for _, c := range []struct {
		role access.Role
		id   string
	}{{access.Server, "s2"}, {access.Node, "n1"}, {access.Operator, "alice"}, {access.Viewer, ""}, {access.Admin, ""}} {
		f := i.issue(t, c.role, c.id)
		if m := meet(t, server, true, named(t, f, "registry-1")); m.err() != nil || !m.known || m.who != (access.Who{Role: c.role, ID: c.id}) {
			t.Errorf("%s %s is taken for %v: %v", c.role, c.id, m.who, m.err())
		}
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "10.0.0.1"} {
		if m := meet(t, server, false, named(t, Files{CA: i.CA()}, host)); m.err() != nil || m.known {
			t.Errorf("nobody who connects to %s: %v, known %v", host, m.err(), m.known)
		}
	}
	if m := meet(t, server, false, opened(t, i.issue(t, access.Server, "s2")).Dial("s1")); m.err() != nil {
		t.Error(m.err())
	}
}

func TestHandshakesThatFail(t *testing.T) {
	east, other, west := newIssuer(t, "east"), newIssuer(t, "east"), newIssuer(t, "west")
	server := opened(t, east.issue(t, access.Server, "s1", "registry-1"))
	node := east.issue(t, access.Node, "n1", "registry-1")
	peer := opened(t, east.issue(t, access.Server, "s2"))
	old := named(t, Files{CA: east.CA()}, "registry-1")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	foreign := named(t, Files{CA: east.CA()}, "registry-1")
	foreign.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { // although the server does not ask for such
		f := other.issue(t, access.Node, "n1")
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		return &pair, err
	}
	east.now = time.Now().Add(-nodeLife - time.Hour)
	expired := east.issue(t, access.Node, "n9")
	for name, c := range map[string]struct {
		server   *Source
		required bool
		client   *tls.Config
		says     string
	}{
		"no certificate":             {server, true, named(t, Files{CA: east.CA()}, "registry-1"), "didn't provide a certificate"},
		"another authority":          {server, false, foreign, "unknown authority"},
		"an expired certificate":     {server, false, named(t, expired, "registry-1"), "expired"},
		"TLS 1.2":                    {server, false, old, "version"},
		"another host":               {server, false, named(t, Files{CA: east.CA()}, "registry-2"), "registry-2"},
		"a server that is not known": {server, false, named(t, Files{CA: west.CA()}, "registry-1"), "unknown authority"},
		"a node as a server":         {opened(t, node), false, named(t, Files{CA: east.CA()}, "registry-1"), "node/n1"},
		"a node as a peer":           {opened(t, node), false, peer.Dial(""), "node/n1"},
		"another peer":               {server, false, peer.Dial("s3"), "server/s1"},
	} {
		if m := meet(t, c.server, c.required, c.client); m.err() == nil || !strings.Contains(m.err().Error(), c.says) {
			t.Errorf("%s: %v, want something with %q", name, m.err(), c.says)
		}
	}
}

// TestClustersThatShareAnAuthority: the certificates are good, and their holders are at home elsewhere.
func TestClustersThatShareAnAuthority(t *testing.T) {
	i := newIssuer(t, "east")
	shared := newShared(t)
	east, west := shared.issue(t, "scope-registry://east/server/s1"), shared.issue(t, "scope-registry://west/node/n1")
	if m := meet(t, opened(t, east), true, named(t, Files{Cert: west.Cert, Key: west.Key}, "localhost")); m.client == nil {
		t.Error("a client of another cluster takes the server for one of its own")
	}
	c := named(t, west, "localhost")
	c.VerifyConnection = nil
	if m := meet(t, opened(t, east), true, c); m.server == nil || !strings.Contains(m.server.Error(), `cluster "west"`) || m.known {
		t.Errorf("a node of another cluster: %v", m.server)
	}
	for text, says := range map[string]string{
		"scope-registry://east/node/n1 scope-registry://east/admin": "two identities",
		"spiffe://east/node/n1":             "no identity",
		"scope-registry://east/emperor":     "no role of ours",
		"scope-registry://east/node":        "no id",
		"scope-registry://EAST/node/n1":     "no cluster",
		"scope-registry://east/node/n1?x=1": "another form",
	} {
		if _, err := Open(shared.issue(t, strings.Fields(text)...), nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want something with %q", text, err, says)
		}
	}
	// Ours signs for its cluster alone.
	i.cluster = "west"
	if _, err := Open(i.issue(t, access.Node, "n1"), nil); err == nil || !strings.Contains(err.Error(), "permitted") {
		t.Errorf("a certificate for a cluster that is not the authority's: %v", err)
	}
}

func TestFilesAreReadAnew(t *testing.T) {
	i := newIssuer(t, "east")
	f := i.issue(t, access.Server, "s1")
	s := opened(t, f)
	now := time.Now()
	s.now = func() time.Time { return now }
	client := named(t, Files{CA: i.CA()}, "localhost")
	look := func() *x509.Certificate {
		t.Helper()
		now = now.Add(lookEvery)
		m := meet(t, s, false, client)
		if m.err() != nil {
			t.Fatal(m.err())
		}
		return m.cert
	}
	first := look()
	i.now = i.now.Add(slack / 2)
	i.issue(t, access.Server, "s1")
	second := look()
	if second.Equal(first) || !s.Expires().Equal(second.NotAfter) || s.Problem() != nil {
		t.Fatalf("the certificate until %v is served, although there is another: %v", first.NotAfter, s.Problem())
	}
	good, err := os.ReadFile(f.Cert)
	if err != nil {
		t.Fatal(err)
	}
	somebody, err := os.ReadFile(i.issue(t, access.Server, "s2").Cert)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"half a certificate": good[:len(good)/2], "nothing": nil, "a certificate of another key": somebody} {
		if err := os.WriteFile(f.Cert, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if !look().Equal(second) || s.Problem() == nil {
			t.Errorf("with %s in the file another certificate is served, or there is no problem: %v", name, s.Problem())
		}
	}
	if err := os.WriteFile(f.Cert, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if !look().Equal(second) || s.Problem() != nil {
		t.Errorf("when it is whole again: %v", s.Problem())
	}
	// Another one with its own key, but another holder.
	other := i.issue(t, access.Server, "s2")
	for from, to := range map[string]string{other.Cert: f.Cert, other.Key: f.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if !look().Equal(second) || s.Problem() == nil || s.Who().ID != "s1" {
		t.Errorf("a program became %v: %v", s.Who(), s.Problem())
	}
}

// TestAuthorityChanges: while both are trusted, certificates of either are good; then the old ones are not.
func TestAuthorityChanges(t *testing.T) {
	before, after := newIssuer(t, "east"), newIssuer(t, "east")
	f := before.issue(t, access.Server, "s1")
	s := opened(t, f)
	now := time.Now()
	s.now = func() time.Time { return now }
	old, fresh := before.issue(t, access.Node, "n1"), after.issue(t, access.Node, "n1")
	try := func(client Files, trusts ...*issuer) error {
		t.Helper()
		var bundle []byte
		for _, i := range trusts {
			text, err := os.ReadFile(i.CA())
			if err != nil {
				t.Fatal(err)
			}
			bundle = append(bundle, text...)
		}
		client.CA = filepath.Join(t.TempDir(), "bundle.pem")
		if err := os.WriteFile(client.CA, bundle, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.CA, bundle, 0o600); err != nil {
			t.Fatal(err)
		}
		now = now.Add(lookEvery)
		return meet(t, s, true, named(t, client, "localhost")).err()
	}
	if err := try(old, before); err != nil {
		t.Error(err)
	}
	if err := try(fresh, before); err == nil {
		t.Error("an authority is trusted that nobody named")
	}
	for name, client := range map[string]Files{"old": old, "new": fresh} {
		if err := try(client, before, after); err != nil {
			t.Errorf("while both are trusted, %s: %v", name, err)
		}
	}
	moved := after.issue(t, access.Server, "s1")
	for from, to := range map[string]string{moved.Cert: f.Cert, moved.Key: f.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if err := try(fresh, after); err != nil {
		t.Error(err)
	}
	if err := try(old, after); err == nil {
		t.Error("the old authority is trusted although it was taken away")
	}
}
