package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// The client and the server agree on every path, parameter and body.
func TestClientUnderstandsServer(t *testing.T) {
	b := newBench(t)
	url, stop := served(t, b.h)
	c := client.New([]string{url})
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for _, id := range []string{"a", "b"} {
		_, err := c.SetNode(ctx, api.Node{ID: id, Addr: id + ":1"})
		check("set node", err)
	}
	p := scope.Prefix("x\x00\\")
	_, err := c.Declare(ctx, p, api.Declare{Writer: "a"}, 0)
	check("declare", err)
	r, err := c.Route(ctx, []byte("x\x00\\1"), client.RouteOptions{As: "b"})
	if check("route", err); r.Reply != "MISDIRECTED writer is a:1" {
		t.Errorf("%+v", r)
	}
	m, err := c.StartMove(ctx, api.StartMove{Prefix: p.Text(), From: "a", To: "b", Mode: "assisted", PreCopy: true})
	check("start", err)
	m, err = c.Quiesce(ctx, m.ID)
	check("quiesce", err)
	m, err = c.Shipped(ctx, m.ID, &api.Manifest{Keys: 1})
	check("shipped", err)
	m, err = c.Ready(ctx, m.ID, &api.Manifest{Keys: 1})
	check("ready", err)
	m, err = c.Cleaned(ctx, m.ID, "off")
	check("cleaned", err)
	m, err = c.Move(ctx, m.ID, time.Minute)
	if check("move", err); m.Phase != "done" {
		t.Errorf("%+v", m)
	}
	_, err = c.Abort(ctx, m.ID, "late")
	if !errors.Is(err, &api.Error{Code: api.WrongPhase}) {
		t.Errorf("%v", err)
	}
	moves, err := c.Moves(ctx, client.MoveFilter{State: "all"})
	check("moves", err)
	scopes, err := c.Scopes(ctx, client.ListOptions{NoFallback: true, Limit: 5})
	check("scopes", err)
	nodes, err := c.Nodes(ctx)
	check("nodes", err)
	if got := fmt.Sprint(len(moves.Moves), len(scopes.Scopes), len(nodes.Nodes)); got != "1 1 2" {
		t.Errorf("lists of %s", got)
	}
	s, err := c.Scope(ctx, p)
	check("scope", err)
	_, err = c.Retire(ctx, p, "", s.Epoch+1)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.StaleEpoch || e.Epoch != s.Epoch {
		t.Errorf("%v", err)
	}
	_, err = c.Apply(ctx, api.Batch{Nodes: []api.Node{{ID: "c", Addr: "c:1"}}, DryRun: true})
	check("plan", err)
	_, err = c.Explain(ctx, []byte("x"))
	check("explain", err)
	_, err = c.Cluster(ctx, true)
	check("cluster", err)
	check("transfer", c.Transfer(ctx, "s2"))
	check("health", c.Health(ctx))
	check("stop", stop())
}

func TestClientStreams(t *testing.T) {
	b := newBench(t)
	b.populated()
	url, stop := served(t, b.h)
	c := client.New([]string{url})
	var data bytes.Buffer
	index, err := c.Backup(t.Context(), &data)
	if err != nil {
		t.Fatal(err)
	}
	st, err := loaded(data.Bytes())
	if err != nil || st.Hash() != b.reg.State().Hash() || index != st.Index() {
		t.Errorf("a backup of index %d holds %d, %v", index, st.Index(), err)
	}
	watch := c.Watch(t.Context(), 1)
	defer watch.Close()
	for last := uint64(1); last < index; {
		item, err := watch.Next()
		if err != nil || item.Type != "change" || item.Index <= last || len(item.Changes) == 0 {
			t.Fatalf("%v, %+v after %d", err, item, last)
		}
		last = item.Index
	}
	watch.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}
}
