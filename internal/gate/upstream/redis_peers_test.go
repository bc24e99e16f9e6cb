//go:build peers

package upstream

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/freeport"
)

// redis starts a Redis server and returns its address.
func redis(t *testing.T, args ...string) string {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	addr := addrs[0]
	_, port, _ := net.SplitHostPort(addr)
	flag := "--port"
	for _, a := range args {
		if strings.HasPrefix(a, "--tls") {
			flag = "--tls-port"
		}
	}
	if flag == "--tls-port" {
		args = append(args, "--port", "0")
	}
	cmd := exec.Command("redis-server", append([]string{flag, port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; on Debian: apt-get install redis-server", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return addr
}

// someone is a connection past the gate.
type someone struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func meet(t *testing.T, addr string) *someone {
	t.Helper()
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			return &someone{t, c, bufio.NewReader(c)}
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func (s *someone) try(args ...string) (Reply, error) {
	if _, err := s.Write(appendCommand(nil, args...)); err != nil {
		return Reply{}, err
	}
	return readReply(s.in)
}

func (s *someone) ask(args ...string) string {
	s.t.Helper()
	r, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("%q: %v", args, err)
	}
	return r.Text
}

// Nothing that an earlier gate sends executes once Open has returned, though it sends all the time, one connection waits in a
// command, and one has written far ahead.
func TestPeerNothingOfAnEarlierGateExecutes(t *testing.T) {
	addr := redis(t)
	var all sync.WaitGroup
	for i := range 8 {
		s := meet(t, addr)
		s.ask("CLIENT", "SETNAME", "scope-registry-gate:n1:before:"+string(rune('a'+i)))
		_ = s.SetDeadline(time.Now().Add(10 * time.Second)) // they are killed long before
		all.Go(func() {
			var many []byte
			for range 500 {
				many = appendCommand(many, "INCR", "landed")
			}
			for {
				if _, err := s.Write(many); err != nil {
					return
				}
				for range 500 {
					if _, err := readReply(s.in); err != nil {
						return
					}
				}
			}
		})
	}
	waits := meet(t, addr)
	waits.ask("CLIENT", "SETNAME", "scope-registry-gate:n1:before:waits")
	if _, err := waits.Write(appendCommand(nil, "BLMOVE", "from", "to", "LEFT", "LEFT", "0")); err != nil {
		t.Fatal(err)
	}
	other := meet(t, addr)
	for other.ask("GET", "landed") == "" { // until they are at it
		if t.Context().Err() != nil {
			t.Fatal("nothing lands")
		}
	}
	s, err := Open(t.Context(), Config{Addr: addr, Node: "n1", Identity: "d"}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := other.ask("GET", "landed")
	other.ask("RPUSH", "from", "x")
	all.Wait() // all were told that they are gone
	for range 100 {
		other.ask("PING")
	}
	if after := other.ask("GET", "landed"); after != before {
		t.Errorf("%s writes became %s after the store was taken", before, after)
	}
	if got := other.ask("LLEN", "to"); got != "0" {
		t.Errorf("a move that waited was done: %s", got)
	}
	if got := other.ask("CLIENT", "LIST"); strings.Contains(got, ":before:") {
		t.Errorf("they are there:\n%s", got)
	}
}

// The last word on a connection: what it waits in never happens.
func TestPeerGoneAndUnblock(t *testing.T) {
	addr := redis(t)
	s, err := Open(t.Context(), Config{Addr: addr, Node: "n1", Identity: "d"}, testLog(t))
	for err != nil && t.Context().Err() == nil {
		s, err = Open(t.Context(), Config{Addr: addr, Node: "n1", Identity: "d"}, testLog(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	other := meet(t, addr)
	blocked := func() *Conn {
		c, err := s.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(appendCommand(nil, "BLPOP", "q", "0")); err != nil {
			t.Fatal(err)
		}
		for !regexp.MustCompile("name="+c.Name+" .* flags=b ").MatchString(other.ask("CLIENT", "LIST")) && t.Context().Err() == nil {
			continue // until it waits
		}
		return c
	}
	c := blocked()
	if err := s.Unblock(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if r, err := readReply(bufio.NewReader(c)); err != nil || !strings.HasPrefix(r.Text, "UNBLOCKED") {
		t.Errorf("%+v, %v", r, err)
	}
	if err := s.Unblock(t.Context(), c); err != nil {
		t.Error(err)
	}
	c = blocked()
	if err := s.Gone(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	other.ask("RPUSH", "q", "x")
	if got := other.ask("LLEN", "q"); got != "1" {
		t.Errorf("the queue has %s", got)
	}
	r, err := s.Ask(t.Context(), "COMMAND", "COUNT")
	if err != nil || r.Int < 200 {
		t.Errorf("%+v, %v", r, err)
	}
}

// aclLines are those of docs/gate.md.
func aclLines(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/gate.md")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "user ") {
			lines = append(lines, line)
		}
	}
	if len(lines) < 3 {
		t.Fatalf("docs/gate.md shows %d lines of access control", len(lines))
	}
	return strings.Join(lines, "\n") + "\n"
}

// The lines that the docs give close the port to everybody but the gate, and to a reader what is not reading.
func TestPeerAccessControlClosesThePort(t *testing.T) {
	dir := t.TempDir()
	acl, password := filepath.Join(dir, "users.acl"), filepath.Join(dir, "password")
	for name, text := range map[string]string{acl: aclLines(t), password: "GATE-PASSWORD\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := redis(t, "--aclfile", acl)
	stranger := meet(t, addr)
	for _, args := range [][]string{{"SET", "a", "1"}, {"GET", "a"}, {"FLUSHALL"}, {"CONFIG", "GET", "*"}, {"REPLICAOF", "h", "1"}} {
		if got := stranger.ask(args...); !strings.HasPrefix(got, "NOAUTH") {
			t.Errorf("%q by a stranger: %s", args, got)
		}
	}
	c := Config{Addr: addr, Node: "n1", Identity: "d"}
	var no *RefusedError
	if _, err := Open(t.Context(), c, testLog(t)); !errors.As(err, &no) || no.Code() != "NOAUTH" {
		t.Errorf("%v", err)
	}
	c.User, c.PasswordFile = "gate", password
	s, err := Open(t.Context(), c, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Ask(t.Context(), "SET", "a", "1"); err != nil {
		t.Error(err)
	}
	reader := meet(t, addr)
	reader.ask("AUTH", "reader", "READER-PASSWORD")
	if got := reader.ask("GET", "a"); got != "1" {
		t.Errorf("a reader reads %q", got)
	}
	for _, args := range [][]string{{"SET", "a", "2"}, {"DEL", "a"}, {"EVAL", "return redis.call('set',KEYS[1],'2')", "1", "a"}, {"CLIENT", "KILL", "ID", "1"}, {"CONFIG", "GET", "*"}} {
		if got := reader.ask(args...); !strings.HasPrefix(got, "NOPERM") {
			t.Errorf("%q by a reader: %s", args, got)
		}
	}
}

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "store"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestPeerTLS(t *testing.T) {
	cert, key := selfSigned(t)
	addr := redis(t, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
	_ = meet(t, addr)
	c := Config{Addr: addr, Node: "n1", Identity: "d", TLS: true}
	if _, err := Open(t.Context(), c, testLog(t)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an authority that nobody knows: %v", err)
	}
	c.CA, c.Cert, c.Key = cert, cert, key
	s, err := Open(t.Context(), c, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if r, err := (&someone{t, conn, bufio.NewReader(conn)}).try("PING"); err != nil || r.Text != "PONG" {
		t.Errorf("%+v, %v", r, err)
	}
}
