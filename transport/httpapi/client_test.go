package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// The client and the server agree on tokens, and the secret stays with the client.
func TestClientMakesTokens(t *testing.T) {
	b := newBench(t)
	url, stop := served(t, b.h)
	c := client.New([]string{url}, client.WithReason("why"))
	first, text, err := client.DrawToken(client.NewToken{ID: "first", Role: "admin", First: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateToken(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	token, err := access.ParseToken(text)
	if err != nil || token.ID != "first" {
		t.Fatalf("%v, %v", token, err)
	}
	if who, _, err := b.reg.State().Authenticate(token, nowMS()); err != nil || who.Role != access.Admin {
		t.Errorf("%v, %v", who, err)
	}
	if e := b.reg.Last(); e.Origin.GetReason() != "why" || strings.Contains(fmt.Sprint(e), strings.TrimPrefix(text, "srt_first_")) {
		t.Errorf("%+v", e)
	}
	c.Close()
	c = client.New([]string{url}, client.WithHTTPClient(&http.Client{Transport: showing{text, &http.Transport{}}}))
	other, _, err := client.DrawToken(client.NewToken{Role: "operator", Prefix: "p:"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateToken(t.Context(), other); err != nil {
		t.Error(err)
	}
	if all, err := c.Tokens(t.Context()); err != nil || len(all.Tokens) != 2 || all.Tokens[0].ID == all.Tokens[1].ID {
		t.Errorf("%+v, %v", all, err)
	}
	p := scope.Prefix("p:")
	if _, err := c.Audit(t.Context(), client.AuditFilter{From: 3, Limit: 5, Prefix: &p, Move: "m", Newest: true}); err != nil {
		t.Error(err)
	}
	if _, err := c.RevokeToken(t.Context(), other.ID); err != nil {
		t.Error(err)
	}
	c.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// showing shows a token with all requests.
type showing struct {
	token string
	http.RoundTripper
}

func (s showing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+s.token)
	return s.RoundTripper.RoundTrip(r)
}

func (s showing) CloseIdleConnections() {
	s.RoundTripper.(*http.Transport).CloseIdleConnections()
}

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
	_, err = c.Retire(ctx, p, client.Fenced{}, s.Epoch+1)
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

// The same of the servers of the cluster.
func TestClientChangesServers(t *testing.T) {
	url, stop := served(t, newBench(t).h)
	c := client.New([]string{url})
	ctx := t.Context()
	joined, err := c.JoinServer(ctx, "s4", "h4:1")
	if err != nil || joined.Phase != "joining" || joined.Addr != "h4:1" {
		t.Errorf("%+v, %v", joined, err)
	}
	gone, err := c.RemoveServer(ctx, "s2", true)
	if err != nil || gone.ID != "s2" || gone.Phase != "gone" {
		t.Errorf("%+v, %v", gone, err)
	}
	if _, err := c.RemoveServer(ctx, "s2", false); !errors.Is(err, &api.Error{Code: api.NoMajority}) {
		t.Errorf("%v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// The same of a node and its session.
func TestNodeUnderstandsServer(t *testing.T) {
	b := newBench(t)
	b.declared()
	b.live("c")
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
		open := client.OpenSession{Identity: "disk-" + id, Session: "n-" + id, Token: token(id), Incarnation: 1, Tag: "c1", View: 1}
		got, err := c.OpenSession(ctx, id, open)
		if check("open", err); got.Session != "n-"+id || got.Opened == 0 || got.LeaseMS == 0 {
			t.Errorf("%+v", got)
		}
		again, err := c.OpenSession(ctx, id, open)
		if check("open again", err); again.Opened != got.Opened {
			t.Errorf("%+v, then %+v", got, again)
		}
	}
	renewed, err := c.Renew(ctx, client.Renewal{Session: "n-a", View: c.Index()})
	if check("renew", err); renewed.LeaseMS == 0 || b.reg.Views["n-a"] == 0 {
		t.Errorf("%+v", renewed)
	}
	m, err := c.StartMove(ctx, api.StartMove{Prefix: "app:", From: "a", To: "b"})
	check("start", err)
	report := client.Report{Move: m.ID, Session: "n-a", Keys: 1, Bytes: 3, KeysLeft: 2, BytesLeft: 4, Early: true}
	check("report", c.Report(ctx, report))
	if got := b.reg.Reports[m.ID]; got != report {
		t.Errorf("the registry was told %+v", got)
	}
	m, err = c.Move(ctx, m.ID, 0)
	if check("move", err); m.Progress == nil || m.Progress.KeysLeft != 2 {
		t.Errorf("%+v", m.Progress)
	}
	_, err = c.ShippedAs(ctx, "n-a", m.ID, &api.Manifest{Keys: 1})
	check("shipped", err)
	_, err = c.ReadyAs(ctx, "n-b", m.ID, &api.Manifest{Keys: 1})
	check("ready", err)
	m, err = c.CleanedAs(ctx, "n-a", client.Cleanup{Node: "a", Prefix: "app:", Epoch: m.Epoch, Move: m.ID})
	if check("cleaned", err); m.Phase != "done" || m.Cleanup != "" {
		t.Errorf("%+v", m)
	}
	m, err = c.StartMove(ctx, api.StartMove{Prefix: "app:", From: "b", To: "c"})
	check("start", err)
	m, err = c.AbortAs(ctx, "n-b", m.ID, "disk full")
	if check("abort", err); m.Cause != fsm.CauseSource || m.Detail != "disk full" {
		t.Errorf("%+v", m)
	}
	all, err := c.Sessions(ctx)
	if check("sessions", err); len(all.Sessions) != 3 || all.Sessions[0].LeftMS == nil {
		t.Errorf("%+v", all)
	}
	_, err = c.CloseSession(ctx, "n-a")
	check("close", err)
	_, err = c.Renew(ctx, client.Renewal{Session: "n-a"})
	if !errors.Is(err, &api.Error{Code: api.SessionExpired}) {
		t.Errorf("%v", err)
	}
	check("stop", stop())
}

// And of an admin who vouches for a node.
func TestAdminUnderstandsServer(t *testing.T) {
	b := newBench(t)
	b.declared()
	b.live("a", "c")
	b.propose(&fsm.CloseSession{Session: "s-a"})
	url, stop := served(t, b.h)
	c := client.New([]string{url})
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	_, err := c.FenceNode(ctx, client.Fenced{Node: "a", Identity: "disk-a"})
	check("fence", err)
	n, err := c.Node(ctx, "a")
	if check("node", err); !n.Fenced || n.Session != nil || n.Identity != "disk-a" {
		t.Errorf("%+v", n)
	}
	s, err := c.Scope(ctx, "app:")
	check("scope", err)
	_, err = c.Force(ctx, api.Force{Prefix: "app:", To: "c", ExpectedEpoch: s.Epoch, AcceptLoss: true, SourceFenced: "a"})
	if !errors.Is(err, &api.Error{Code: api.IdentityChanged}) {
		t.Errorf("%v", err)
	}
	_, err = c.Declare(ctx, "old:", api.Declare{Writer: "a"}, 0)
	check("declare", err)
	_, err = c.Retire(ctx, "old:", client.Fenced{Node: "a", Identity: "disk-a"}, 0)
	check("retire", err)
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
