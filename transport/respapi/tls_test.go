package respapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/certs/certstest"
)

// under serves the protocol under TLS on a free port.
func under(t *testing.T, own *certs.Source, required bool) *bench {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, reg: newMemory(t), ln: ln}
	b.srv = New(Config{Registry: b.reg, Certs: own, CertsRequired: required})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.srv.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// secure connects with a certificate of who, or none.
func (b *bench) secure(of *certs.Source) (*client, error) {
	b.t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // whom the server believes is tested
	if of != nil {
		cfg = of.Dial("s1")
	}
	nc, err := tls.Dial("tcp", b.ln.Addr().String(), cfg)
	if err != nil {
		return nil, err
	}
	b.t.Cleanup(func() { _ = nc.Close() })
	return &client{b.t, nc, bufio.NewReader(nc)}, nil
}

func TestCertificates(t *testing.T) {
	ca := certstest.New(t)
	b := under(t, ca.Source(access.Who{Role: access.Server, ID: "s1"}), true)
	b.reg.declared(t)
	operator, err := b.secure(ca.Source(access.Who{Role: access.Operator, ID: "alice"}))
	if err != nil {
		t.Fatal(err)
	}
	operator.want("SCOPE DECLARE shop: WRITER b", "+OK\r\n")
	if last := b.reg.Asked[len(b.reg.Asked)-1]; last.Actor != "operator/alice" || last.Origin.GetRole() != "operator" || last.Origin.GetId() != "alice" {
		t.Errorf("recorded: %q %v", last.Actor, last.Origin)
	}
	contains(t, operator.ask("CLIENT LIST"), "user=operator/alice ")
	node, err := b.secure(ca.Source(access.Who{Role: access.Node, ID: "a"}))
	if err != nil {
		t.Fatal(err)
	}
	node.want("SCOPE NODE SET a 10.0.0.1:7000", "+OK\r\n")
	contains(t, node.ask("SCOPE NODE SET b 10.0.0.1:7001"), "-NOPERM ")
	// A token that is shown counts, until it is taken back.
	b.admit()
	node.auth("viewer")
	contains(t, node.ask("SCOPE NODE SET a 10.0.0.1:7001"), "-NOPERM ")
	b.reg.apply(t, &fsm.RevokeToken{Id: "viewer"})
	contains(t, node.ask("SCOPE LIST"), "-NOAUTH ") // not the certificate behind the token
	node.want("RESET", "+RESET\r\n")
	node.want("SCOPE NODE SET a 10.0.0.1:7001", "+OK\r\n")
	server, err := b.secure(ca.Source(access.Who{Role: access.Server, ID: "s2"}))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, server.ask("SCOPE LIST"), "-NOPERM server/s2 ")
	server.want("PING", "+PONG\r\n")
}

// refused is a connection that is closed before anything is answered, whenever the client notices.
func (b *bench) refused(of *certs.Source) error {
	b.t.Helper()
	c, err := b.secure(of)
	if err != nil {
		return err
	}
	_, _ = c.nc.Write([]byte("PING\r\n")) // it may have been closed already
	line, err := c.reply()
	if strings.HasPrefix(line, "-NOAUTH ") {
		return errors.New(line)
	}
	if err == nil {
		b.t.Errorf("it was answered %q", line)
	}
	return err
}

func TestCertificatesThatAreNotGood(t *testing.T) {
	ca := certstest.New(t)
	required := under(t, ca.Source(access.Who{Role: access.Server, ID: "s1"}), true)
	for what, of := range map[string]*certs.Source{"none": nil, "of another authority": certstest.New(t).Source(access.Who{Role: access.Admin})} {
		if err := required.refused(of); err == nil {
			t.Errorf("a certificate %s was taken", what)
		}
	}
	if err := required.refused(ca.SourceOf("other", access.Who{Role: access.Admin})); err == nil {
		t.Error("a certificate of another cluster was taken")
	}
	asked := under(t, ca.Source(access.Who{Role: access.Server, ID: "s1"}), false)
	c, err := asked.secure(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.want("PING", "+PONG\r\n")
	asked.admit()
	contains(t, c.ask("SCOPE LIST"), "-NOAUTH ")
	c.auth("viewer")
	contains(t, c.ask("SCOPE LIST"), "*2\r\n")
	plain := asked.dial() // not under TLS
	plain.send("PING\r\n")
	if got, _ := plain.reply(); strings.HasPrefix(got, "+") {
		t.Errorf("without TLS it was answered %q", got)
	}
}
