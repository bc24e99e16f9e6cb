package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
)

// shared is an authority that was made elsewhere, with one between it and what it issues.
type shared struct {
	dir     string
	root    *x509.Certificate
	between *x509.Certificate
	key     crypto.Signer
}

func newShared(t *testing.T) *shared {
	t.Helper()
	s := &shared{dir: t.TempDir()}
	make := func(name string, parent *x509.Certificate, by crypto.Signer) (*x509.Certificate, crypto.Signer) {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := template(name, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
		if parent == nil {
			parent, by = tmpl, key
		}
		cert, err := sign(tmpl, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	root, rootKey := make("root", nil, nil)
	s.root = root
	s.between, s.key = make("between", root, rootKey)
	if err := os.WriteFile(filepath.Join(s.dir, "root.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// issue makes a certificate with these URIs for localhost, and puts the one between behind it.
func (s *shared) issue(t *testing.T, uris ...string) Files {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := template("holder", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.DNSNames, tmpl.IPAddresses, tmpl.KeyUsage = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}, x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, u)
	}
	cert, err := sign(tmpl, s.between, key.Public(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	certText, keyText, err := encode(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	certText = append(certText, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.between.Raw})...)
	dir := t.TempDir()
	f := Files{Cert: filepath.Join(dir, "x.pem"), Key: filepath.Join(dir, "x.key"), CA: filepath.Join(s.dir, "root.pem")}
	for name, text := range map[string][]byte{f.Cert: certText, f.Key: keyText} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestAnAuthorityOfOnesOwn: what serves and connects needs none of ours, and one between is no obstacle.
func TestAnAuthorityOfOnesOwn(t *testing.T) {
	s := newShared(t)
	server, node := s.issue(t, "scope-registry://east/server/s1"), s.issue(t, "scope-registry://east/node/n1", "https://example.net/n1")
	if m := meet(t, opened(t, server), true, named(t, node, "localhost")); m.err() != nil || m.who != (access.Who{Role: access.Node, ID: "n1"}) {
		t.Errorf("%v is taken for %v", m.err(), m.who)
	}
	if m := meet(t, opened(t, server), true, opened(t, s.issue(t, "scope-registry://east/server/s2")).Dial("s1")); m.err() != nil {
		t.Error(m.err())
	}
	certText, keyText, err := encode(s.between, s.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAuthority(certText, keyText, ""); err == nil || !strings.Contains(err.Error(), "--cluster") {
		t.Errorf("an authority for any cluster, without saying which: %v", err)
	}
	a, err := ReadAuthority(certText, keyText, "east")
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := a.Issue(Wish{Who: access.Who{Role: access.Node, ID: "n2"}, Life: 2 * leastLife}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := parse(cert)[0].CheckSignatureFrom(s.between); err != nil {
		t.Error(err)
	}
}

func TestWhatIsIssued(t *testing.T) {
	i := newIssuer(t, "east")
	for role, life := range map[access.Role]time.Duration{access.Server: serverLife, access.Node: nodeLife, access.Operator: personLife, access.Viewer: personLife, access.Admin: personLife} {
		f := i.issue(t, role, "x1")
		text, err := os.ReadFile(f.Cert)
		if err != nil {
			t.Fatal(err)
		}
		c := parse(text)[0]
		serves := len(c.ExtKeyUsage) == 2
		if !c.NotAfter.Equal(i.now.Add(life).Truncate(time.Second).UTC()) || !c.NotBefore.Before(i.now) || c.IsCA || serves != (role == access.Server) || c.SerialNumber.BitLen() < 64 {
			t.Errorf("the certificate of a %s is good from %v to %v, with usages %v and serial number %v", role, c.NotBefore, c.NotAfter, c.ExtKeyUsage, c.SerialNumber)
		}
		for _, name := range []string{f.Cert, f.Key, i.path("ca.key")} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
			}
		}
	}
	if c := i.Authority.cert; !c.MaxPathLenZero || !c.IsCA || len(c.PermittedURIDomains) != 1 || c.PermittedURIDomains[0] != "east" {
		t.Errorf("the authority may sign %v", c.PermittedURIDomains)
	}
}

func TestWishesThatAreRefused(t *testing.T) {
	i := newIssuer(t, "east")
	wish := func(role access.Role, id string, life time.Duration, hosts ...string) Wish {
		return Wish{Who: access.Who{Role: role, ID: id}, Life: life, Hosts: hosts}
	}
	for says, w := range map[string]Wish{
		"needs the id of the server": wish(access.Server, "", 0),
		"needs the id of the node":   wish(access.Node, "", 0),
		"role anonymous is none":     wish(access.Anonymous, "", 0),
		"has no hosts":               wish(access.Admin, "", 0, "h1"),
		`host "h1:80"`:               wish(access.Server, "s1", 0, "h1:80"),
		`host ""`:                    wish(access.Server, "s1", 0, ""),
		`host "*.example.net"`:       wish(access.Server, "s1", 0, "*.example.net"),
		`host "fe80::1%eth0"`:        wish(access.Server, "s1", 0, "fe80::1%eth0"),
		"a b":                        wish(access.Operator, "a b", 0),
		"33 hosts":                   wish(access.Server, "s1", 0, strings.Fields(strings.Repeat("h ", maxHosts+1))...),
		"a life of 1s":               wish(access.Viewer, "", time.Second),
		"the authority ends on":      wish(access.Viewer, "", authorityLife),
	} {
		later := i.now
		if w.Life == authorityLife {
			later = later.Add(time.Hour)
		}
		if _, err := i.Dir.Issue(i.Authority, w, later, false); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want something with %q", w, err, says)
		}
	}
	for _, cluster := range []string{"", "East", "a.b", strings.Repeat("a", 64)} {
		if _, err := NewAuthority(cluster, i.now); err == nil {
			t.Errorf("an authority for cluster %q", cluster)
		}
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	i := newIssuer(t, "east")
	if _, err := i.Init("east", i.now); err == nil || !strings.Contains(err.Error(), "ca.key exists") {
		t.Errorf("a second authority in one directory: %v", err)
	}
	f := i.issue(t, access.Node, "n1")
	before, err := os.ReadFile(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{f.Cert, ""} {
		if gone != "" {
			if err := os.Rename(gone, gone+".away"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := i.Dir.Issue(i.Authority, Wish{Who: access.Who{Role: access.Node, ID: "n1"}}, i.now, false); err == nil || !strings.Contains(err.Error(), "exists; replace it with --force") {
			t.Errorf("a second certificate of one node: %v", err)
		}
		if gone != "" {
			if err := os.Rename(gone+".away", gone); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after, err := os.ReadFile(f.Key); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the key was replaced: %v", err)
	}
	if left, err := filepath.Glob(i.path(".*")); err != nil || len(left) > 0 {
		t.Errorf("files were left: %v, %v", left, err)
	}
	// One that comes in between, too.
	if err := place(f.Key, []byte("x"), false); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a file was replaced: %v", err)
	}
}

func TestRenew(t *testing.T) {
	i := newIssuer(t, "east")
	i.issue(t, access.Server, "s1", "registry-1", "10.0.0.1")
	i.issue(t, access.Node, "n1")
	i.issue(t, access.Admin, "")
	names := func(at time.Time, all bool) string {
		t.Helper()
		renewed, err := i.Renew(i.Authority, at, all)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, one := range renewed {
			if one.Due || !one.Until.Equal(at.Add(Life(one.Who.Role)).Truncate(time.Second)) {
				t.Errorf("%s is good until %v after it was renewed on %v", one.Cert, one.Until, at)
			}
			out = append(out, name(one.Who)+" "+strings.Join(one.names(), ","))
		}
		return strings.Join(out, "; ")
	}
	if got := names(i.now.Add(4*day), false); got != "" {
		t.Errorf("renewed before it was time: %s", got)
	}
	if got := names(i.now.Add(5*day), false); got != "admin " {
		t.Errorf("renewed after five days: %s", got)
	}
	if got := names(i.now.Add(61*day), false); got != "admin ; node-n1 ; server-s1 registry-1,localhost,10.0.0.1,127.0.0.1,::1" {
		t.Errorf("renewed after two months: %s", got)
	}
	// A crash between key and certificate.
	if err := os.Rename(i.path("admin.key"), i.path("node-n1.key")); err != nil {
		t.Fatal(err)
	}
	if got := names(i.now.Add(61*day), false); got != "admin ; node-n1 " {
		t.Errorf("renewed where keys were missing and wrong: %s", got)
	}
	if got := names(i.now.Add(61*day), true); strings.Count(got, ";") != 2 {
		t.Errorf("renewed when all was asked for: %s", got)
	}
	if err := os.Rename(i.path("admin.pem"), i.path("root.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Renew(i.Authority, i.now.Add(300*day), false); err == nil || !strings.Contains(err.Error(), "admin.pem") {
		t.Errorf("a certificate under the name of another: %v", err)
	}
}

func TestDirectoriesThatAreNone(t *testing.T) {
	i := newIssuer(t, "east")
	again, err := i.Dir.Open("")
	if err != nil || again.Cluster() != "east" {
		t.Fatalf("the authority signs for %q, %v", again.Cluster(), err)
	}
	if _, err := i.Dir.Open("west"); err == nil || !strings.Contains(err.Error(), `"east" and not for "west"`) {
		t.Errorf("an authority of another cluster: %v", err)
	}
	empty := Dir(t.TempDir())
	if _, err := empty.Open(""); err == nil || !strings.Contains(err.Error(), "certs init --dir "+string(empty)) {
		t.Errorf("a directory without an authority: %v", err)
	}
	if all, err := empty.List(i.now); err != nil || len(all) > 0 {
		t.Errorf("a directory without certificates: %v, %v", all, err)
	}
	if _, err := Dir(empty.path("none")).List(i.now); err == nil {
		t.Error("a directory that does not exist has certificates")
	}
	other := newIssuer(t, "east")
	if err := os.Rename(other.path("ca.key"), i.path("ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Dir.Open(""); err == nil || !strings.Contains(err.Error(), "belongs to its key") {
		t.Errorf("an authority with the key of another: %v", err)
	}
	if _, err := os.Stat(other.path("ca.pem")); err != nil {
		t.Error(err)
	}
	if _, err := other.Dir.Open(""); err == nil || !strings.Contains(err.Error(), "where it is kept") {
		t.Errorf("an authority whose key is kept elsewhere: %v", err)
	}
	if err := os.WriteFile(other.path("ca.key"), []byte("x"), fs.FileMode(fileMode)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Dir.Open(""); err == nil || !strings.Contains(err.Error(), "not in PEM") {
		t.Errorf("an authority with a key that is none: %v", err)
	}
}
