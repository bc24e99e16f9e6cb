package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs/certstest"
)

// Under TLS a client is who its certificate says, and its connection is kept before those of others.
func TestServeUnderTLS(t *testing.T) {
	ca := certstest.New(t)
	server := ca.Source(access.Who{Role: access.Server, ID: "s1"})
	b := benchOf(t, func(cfg *Config) { cfg.Certs = server })
	b.token("admin", &fsm.CreateToken{Role: "admin"})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, b.h, server.Listen(false), nil) }()
	for want, config := range map[int]*tls.Config{
		http.StatusOK: ca.Source(access.Who{Role: access.Admin, ID: "root"}).Dial(""),
		http.StatusUnauthorized: {InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: ca.Roots(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		}},
	} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
		for range 2 { // on one connection
			req, err := http.NewRequestWithContext(ctx, "PUT", "https://"+ln.Addr().String()+"/v1/nodes/a", strings.NewReader(`{"addr":"h:1"}`))
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if res.Body.Close(); res.StatusCode != want || res.ProtoMajor != 1 {
				t.Errorf("%s over %s, want %d", res.Status, res.Proto, want)
			}
		}
		client.CloseIdleConnections()
	}
	if e := b.reg.Last(); e.Actor != "admin/root" || e.Origin.GetRole() != "admin" || e.Origin.GetSource() != "127.0.0.1" {
		t.Errorf("%+v", e)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A handshake that stands still has the time of a header, and makes room before.
func TestStalledHandshake(t *testing.T) {
	ca := certstest.New(t)
	server := ca.Source(access.Who{Role: access.Server, ID: "s1"})
	synctest.Test(t, func(t *testing.T) {
		w, stop := wiredUnder(t, newBench(t).h, server.Listen(false))
		start := time.Now()
		for _, sent := range []string{"", "\x16\x03\x01"} {
			if said, took := rest(w.dial(sent), start); took < readHeaderTimeout || took > 2*readHeaderTimeout+time.Second || strings.Contains(said, "HTTP/1.1 4") {
				t.Errorf("%q: ended after %v with %q", sent, took, said)
			}
		}
		stop()
	})
	d := newDoor(nil, 1, true)
	first := &doorConn{Conn: discardConn{}, door: d}
	d.enter(first)
	if evicted, ok := d.enter(&doorConn{Conn: discardConn{}, door: d}); !ok || evicted != first {
		t.Error("a connection that is shaking hands makes no room")
	}
	d.refuse(discardConn{}) // says nothing in plain words
	if _, ok := d.under(server.Listen(false)).(*door); ok {
		t.Error("the door has no TLS on top")
	}
	if doorConnOf(tls.Server(first, &tls.Config{})) != first {
		t.Error("a connection is not found below TLS")
	}
}
