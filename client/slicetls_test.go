package client

import (
	"context"
	"crypto/tls"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// TestTLSSend: a batch goes to the node that it is for, and is taken from the source of its move only.
func TestTLSSend(t *testing.T) {
	dir := certs.Dir(t.TempDir())
	authority, err := dir.Init("east", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	files := func(role access.Role, id string) TLS {
		t.Helper()
		one, err := dir.Issue(authority, certs.Wish{Who: access.Who{Role: role, ID: id}}, time.Now(), true)
		if err != nil {
			t.Fatal(err)
		}
		return TLS{CA: dir.CA(), Cert: one.Cert, Key: one.Key}
	}
	target := newSliceTarget(t, newMemStore())
	defer target.stop()
	target.sees("quiescing")
	own := files(access.Node, "n2")
	source, err := certs.Open(certs.Files{CA: own.CA, Cert: own.Cert, Key: own.Key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	node := &Session{adm: target.adm, cfg: SessionConfig{Node: "n2"}}
	srv := httptest.NewUnstartedServer(sliceHandler(func(context.Context, *Batch) error { return nil }, node.mayCome))
	srv.TLS = source.Listen(true)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	send := func(as TLS, to Peer, b *Batch) error {
		t.Helper()
		s, err := TLSSend(as)
		if err != nil {
			t.Fatal(err)
		}
		return s(t.Context(), to, b)
	}
	b := batchOf("s1", 0, "app:a")
	n1 := files(access.Node, "n1")
	if err := send(n1, Peer{"n2", addr}, b); err != nil {
		t.Errorf("the source: %v", err)
	}
	wants(t, send(files(access.Node, "n3"), Peer{"n2", addr}, b), &Error{Code: api.Forbidden})
	wants(t, send(files(access.Admin, "n1"), Peer{"n2", addr}, b), &Error{Code: api.Forbidden})
	wants(t, send(n1, Peer{"n4", addr}, b), &Error{Code: api.Unavailable}) // another node has the address
	other := *b
	other.Move = "m9" // which the view does not show: whoever takes the batch says so
	if err := send(files(access.Node, "n3"), Peer{"n2", addr}, &other); err != nil {
		t.Error(err)
	}
	if err := node.mayCome(nil, b.Move, true); err != nil {
		t.Errorf("without TLS: %v", err)
	}
	if _, err := TLSSend(TLS{CA: n1.CA}); err == nil {
		t.Error("it sends without a certificate")
	}
	wants(t, node.mayCome(&tls.ConnectionState{}, b.Move, false), &Error{Code: api.Unauthenticated})
	wants(t, node.mayCome(nil, "m9", true), &Error{Code: api.NotFound}) // nothing long of a move that is not known
	if err := node.mayCome(nil, "m9", false); err != nil {
		t.Errorf("a short batch of a move that is not known yet: %v", err)
	}
}
