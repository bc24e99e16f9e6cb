package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// in says of which incarnation of the cluster an item is.
func in(incarnation uint64, tag string, item api.WatchItem) api.WatchItem {
	item.Incarnation, item.Tag = incarnation, tag
	return item
}

// whole is a snapshot with the record of the cluster and others.
func whole(incarnation, index uint64, more ...api.Change) api.WatchItem {
	item := in(incarnation, "t", snap(index, false))
	item.Changes = append([]api.Change{{Op: "put", Cluster: &api.ClusterRecord{Incarnation: incarnation, Tag: "t"}}}, more...)
	return item
}

// part is one that goes on.
func part(item api.WatchItem) api.WatchItem {
	item.More = true
	return item
}

// changed is an item with changes.
func changed(incarnation, index uint64, changes ...api.Change) api.WatchItem {
	item := in(incarnation, "t", change(index))
	item.Changes = changes
	return item
}

func beat(incarnation, index uint64) api.WatchItem { return in(incarnation, "t", heartbeat(index)) }

func nodeAt(id, addr string) api.Change {
	return api.Change{Op: "put", Node: &api.NodeState{Node: api.Node{ID: id, Addr: addr}}}
}

func owned(prefix, owner string, epoch uint64) api.Change {
	return api.Change{Op: "put", Scope: &api.Scope{Prefix: prefix, Writer: owner, Owner: owner, Epoch: epoch, State: "owned"}}
}

func moving(prefix, owner, target string, epoch uint64) api.Change {
	c := owned(prefix, owner, epoch)
	c.Scope.State, c.Scope.Target = "quiesced", target
	return c
}

// open answers a watch with items, and leaves it open.
func open(items ...api.WatchItem) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		lines(items...)(w, r)
		<-r.Context().Done()
	}
}

// mirrorOf starts a mirror of scripted servers.
func mirrorOf(t *testing.T, answers ...http.HandlerFunc) (*Mirror, *cluster) {
	t.Helper()
	cl := servers(t, answers...)
	m, err := cl.client().NewMirror(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, cl
}

// until waits for a view.
func until(t *testing.T, m *Mirror, what string, ok func(View) bool) {
	t.Helper()
	ctx := bounded(t)
	for {
		next := m.Changed()
		if ok(m.View()) {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			t.Fatalf("%s does not come; index %d, incarnation %d, %v", what, m.View().Index(), m.View().Incarnation(), m.Err())
		}
	}
}

// froms are the server and the index of each request.
func (cl *cluster) froms() string {
	var asked []string
	for _, a := range cl.requests() {
		asked = append(asked, fmt.Sprintf("%d:%s", a.server, strings.TrimPrefix(a.target, "/v1/watch?from=")))
	}
	return strings.Join(asked, " ")
}

func TestMirrorRoutes(t *testing.T) {
	hold := api.Change{Op: "put", Cluster: &api.ClusterRecord{Incarnation: 1, Tag: "t", Hold: true}}
	m, cl := mirrorOf(t, open(
		part(whole(1, 5, nodeAt("a", "a:1"))), in(1, "t", api.WatchItem{Type: "snapshot", Index: 5, Changes: []api.Change{owned("p:", "a", 3)}}),
		changed(1, 7, nodeAt("b", "b:1"), moving("q:", "a", "b", 4), owned("r:", "c", 6)), beat(1, 9)))
	if err := m.WaitIndex(bounded(t), 9); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]Route{
		"p:1": {scope.Owned, "p:", "a", "a:1", Token{1, 3}},
		"q:1": {scope.Quiesced, "q:", "b", "b:1", Token{1, 4}},
		"r:1": {scope.Misdirected, "r:", "c", "c", Token{1, 6}},
		"x":   {},
	} {
		if got := m.Route([]byte(key), "a"); got != want {
			t.Errorf("%s: %+v, want %+v", key, got, want)
		}
	}
	if got := m.Owner([]byte("q:1")) + m.Owner([]byte("r:1")) + m.Owner([]byte("x")); got != "a:1c" {
		t.Errorf("owners %s", got)
	}
	v := m.View()
	s, ok := v.Scope("q:")
	_, none := v.Scope("q")
	if !ok || none || s.Owner != "a" || s.Quiesced != "b" || v.Len() != 3 || v.Addr("b") != "b:1" || v.Addr("z") != "z" || v.Holds() || v.Incarnation() != 1 {
		t.Errorf("%+v, %v, %v", s, ok, none)
	}
	var all, under []string
	for s := range v.Scopes("") {
		all = append(all, string(s.Prefix))
	}
	for s := range v.Scopes("q") {
		under = append(under, string(s.Prefix))
	}
	if fmt.Sprint(all, under) != "[p: q: r:] [q:]" {
		t.Errorf("%v, %v", all, under)
	}
	if err := m.Err(); err != nil || cl.froms() != "0:0" || m.Age() < 0 || m.Age() > time.Minute {
		t.Errorf("%v, asked %s, age %v", err, cl.froms(), m.Age())
	}

	held, _ := mirrorOf(t, open(whole(1, 5, hold, nodeAt("a", "a:1"), owned("p:", "a", 3))))
	if got := held.Route([]byte("p:1"), "a"); got.Verdict != scope.Quiesced || got.Addr != "a:1" || !held.View().Holds() {
		t.Errorf("%+v", got)
	}
}

// What is shown is whole, at every index that it is shown at, whatever the streams
// do in between.
func TestMirrorAcrossStreams(t *testing.T) {
	full := func(incarnation, index uint64) api.WatchItem {
		return whole(incarnation, index, owned("p:", "a", index))
	}
	for _, c := range []struct {
		name    string
		answers []http.HandlerFunc
		asked   string // all of them
		index   uint64
		epoch   uint64 // of p:
	}{
		{"goes on where it broke off", []http.HandlerFunc{
			lines(full(1, 5), beat(1, 8)), open(changed(1, 9, owned("p:", "a", 9)))}, "0:0 1:8", 9, 9},
		{"begins a snapshot anew that broke off half way", []http.HandlerFunc{
			lines(part(full(1, 5))), open(full(1, 6))}, "0:0 1:0", 6, 6},
		{"takes a snapshot after COMPACTED", []http.HandlerFunc{
			lines(full(1, 5)), inTurn(refuse(api.Compacted), lines()), open(full(1, 9))}, "0:0 1:5 2:0", 9, 9},
		{"takes a snapshot after COMPACTED on the way", []http.HandlerFunc{
			lines(full(1, 5), failure(api.Compacted)), open(full(1, 9))}, "0:0 1:0", 9, 9},
		{"takes a snapshot after SLOW", []http.HandlerFunc{
			lines(full(1, 5), failure(api.Slow)), open(full(1, 9))}, "0:0 1:0", 9, 9},
		{"takes a snapshot after an item of a later version", []http.HandlerFunc{
			lines(full(1, 5), in(1, "t", api.WatchItem{Type: "reset", Index: 7})), open(full(1, 9))}, "0:0 1:0", 9, 9},
		{"takes no snapshot from before", []http.HandlerFunc{
			lines(full(1, 5), failure(api.Slow)), open(full(1, 4)), open(full(1, 6))}, "0:0 1:0 2:0", 6, 6},
		{"does not take the first part of one from before for a beginning", []http.HandlerFunc{
			lines(full(1, 5), failure(api.Slow)), open(part(full(1, 4))), open(full(1, 6))}, "0:0 1:0 2:0", 6, 6},
		{"follows a restore to an earlier index", []http.HandlerFunc{
			lines(full(1, 50), failure(api.Compacted)), lines(full(2, 9)), open(changed(2, 10, owned("p:", "a", 10)))}, "0:0 1:0 2:9", 10, 10},
		{"never follows the older one again", []http.HandlerFunc{
			lines(full(1, 50), beat(2, 51)), open(full(1, 60)), open(full(2, 9))}, "0:0 1:0 2:0", 9, 9},
		{"nor one that it met half way through a snapshot", []http.HandlerFunc{
			lines(full(1, 50), part(full(2, 9))), open(full(1, 60)), open(full(2, 11))}, "0:0 1:0 2:0", 11, 11},
		{"takes nothing of an index that is of another history", []http.HandlerFunc{
			lines(full(1, 5)), open(changed(2, 6, owned("p:", "a", 99))), open(full(2, 8))}, "0:0 1:5 2:0", 8, 8},
		{"does not go on with another snapshot", []http.HandlerFunc{
			lines(part(full(1, 5)), full(1, 6))}, "", 0, 0},
		{"takes no change for the rest of a snapshot", []http.HandlerFunc{
			lines(part(full(1, 5)), changed(1, 6))}, "", 0, 0},
		{"needs the record of the cluster", []http.HandlerFunc{
			lines(in(1, "t", snap(5, false)))}, "", 0, 0},
		{"needs an incarnation", []http.HandlerFunc{
			lines(snap(5, false))}, "", 0, 0},
		{"takes a snapshot after what it cannot make sense of", []http.HandlerFunc{
			lines(full(1, 5), changed(1, 6, owned("p:x", "b", 6))), open(full(1, 7))}, "0:0 1:0", 7, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.index == 0 {
				if m, err := servers(t, c.answers...).client().NewMirror(bounded(t)); !is(err, api.Internal) {
					t.Errorf("%v, %v", m, err)
				}
				return
			}
			m, cl := mirrorOf(t, c.answers...)
			until(t, m, "the last index", func(v View) bool {
				s, _ := v.Scope("p:")
				if v.Index() > c.index && v.Index() < 50 || s.Epoch == 0 || s.Epoch > 50 {
					t.Errorf("index %d, %+v", v.Index(), s)
				}
				return v.Index() == c.index
			})
			s, _ := m.View().Scope("p:")
			if s.Epoch != c.epoch || cl.froms() != c.asked || m.Err() != nil {
				t.Errorf("epoch %d, asked %s, want %d, %s; %v", s.Epoch, cl.froms(), c.epoch, c.asked, m.Err())
			}
		})
	}
}

// Two restores under one number are told from each other, and none is taken for
// the other; a third one under a new number ends that.
func TestMirrorMeetsTwoHistoriesOfOneNumber(t *testing.T) {
	other := in(2, "other", whole(2, 60, owned("p:", "b", 60)))
	other.Changes[0].Cluster.Tag = "other"
	var restored atomic.Bool
	// The NO_LEADER of a server does not hide what is wrong.
	first := inTurn(lines(whole(2, 50, owned("p:", "a", 1)), failure(api.Compacted)), lines(other), inTurn(refuse(api.NoLeader), lines(other)))
	m, cl := mirrorOf(t, func(w http.ResponseWriter, r *http.Request) {
		answer := first
		if restored.Load() {
			answer = open(whole(3, 9, owned("p:", "c", 70)))
		}
		answer(w, r)
	})
	ctx := bounded(t)
	for len(cl.requests()) < 5 && ctx.Err() == nil {
		if err := m.Err(); len(cl.requests()) > 2 && !is(err, api.StaleEpoch) {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
	if s, _ := m.View().Scope("p:"); s.Owner != "a" || !strings.Contains(m.Err().Error(), `incarnation 2 of the cluster with the tag "other"`) {
		t.Errorf("%+v, %v", s, m.Err())
	}
	restored.Store(true)
	until(t, m, "the third", func(v View) bool { return v.Incarnation() == 3 })
	if s, _ := m.View().Scope("p:"); s.Owner != "c" || m.Err() != nil {
		t.Errorf("%+v, %v", s, m.Err())
	}
}

// virtual is a mirror in virtual time, of hosts that feed as a test says.
func virtual(t *testing.T, hosts []string, feed func(ctx context.Context, host, from string, w io.Writer)) (*Mirror, error) {
	return virtualAfter(t, 0, hosts, feed)
}

// virtualAfter is virtual, of a client that was told of an index before.
func virtualAfter(t *testing.T, told uint64, hosts []string, feed func(ctx context.Context, host, from string, w io.Writer)) (*Mirror, error) {
	c := New(hosts, WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		resp := streaming(r, func(ctx context.Context, w io.Writer) { feed(ctx, r.URL.Host, r.URL.Query().Get("from"), w) })
		resp.Header = http.Header{}
		return resp, nil
	})}))
	c.index.Store(told)
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return c.newMirror(ctx, func() time.Duration { return time.Since(start) })
}

// beats sends heartbeats of an index, as a server does.
func beats(ctx context.Context, w io.Writer, index uint64) {
	for sleep(ctx, time.Second) {
		_ = json.NewEncoder(w).Encode(beat(1, index))
	}
}

// A server that is silent is left soon, and how old the view is can be seen.
func TestMirrorLeavesSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := ""
		m, err := virtual(t, []string{"a", "b"}, func(ctx context.Context, host, from string, w io.Writer) {
			asked += host + from + " "
			if host == "a" {
				_ = json.NewEncoder(w).Encode(whole(1, 5))
				<-ctx.Done()
				return
			}
			sleep(ctx, 4*time.Second)
			_ = json.NewEncoder(w).Encode(changed(1, 6))
			beats(ctx, w, 6)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		<-time.After(mirrorQuiet - time.Millisecond)
		if age := m.Age(); age != mirrorQuiet-time.Millisecond || m.Err() != nil {
			t.Errorf("%v, %v", age, m.Err())
		}
		<-time.After(time.Second)
		if err := m.Err(); !is(err, api.Unavailable) || !strings.Contains(err.Error(), "nothing came for 5s") {
			t.Errorf("%v", err)
		}
		<-time.After(time.Minute)
		if age := m.Age(); age > time.Second || m.Err() != nil || m.View().Index() != 6 || asked != "a0 b5 " {
			t.Errorf("%v, %v, index %d, asked %s", age, m.Err(), m.View().Index(), asked)
		}
	})
}

// A server that stands still while it sends heartbeats is left when somebody waits
// for what it does not have. For what nobody has all are asked, and once only.
func TestMirrorLeavesWhoStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := ""
		m, err := virtual(t, []string{"a", "b", "c"}, func(ctx context.Context, host, from string, w io.Writer) {
			asked += host + from + " "
			if from == "0" {
				_ = json.NewEncoder(w).Encode(whole(1, 5))
			}
			if host == "c" {
				_ = json.NewEncoder(w).Encode(changed(1, 8))
				beats(ctx, w, 8)
			}
			index, _ := strconv.ParseUint(from, 10, 64)
			beats(ctx, w, max(index, 5))
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		<-time.After(time.Minute)
		if asked != "a0 " {
			t.Errorf("asked %s", asked)
		}
		start := time.Now()
		if err := m.WaitIndex(t.Context(), 8); err != nil || asked != "a0 b5 c5 " {
			t.Errorf("%v, asked %s", err, asked)
		}
		if took := time.Since(start); took > 2*(behindFor+2*time.Second) {
			t.Errorf("took %v", took)
		}
		asked = ""
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := m.WaitIndex(ctx, 1000); !is(err, api.Timeout) || !strings.Contains(err.Error(), "1000") {
			t.Errorf("%v", err)
		}
		if asked != "a8 b8 c8 " {
			t.Errorf("asked %s", asked)
		}
	})
}

func TestMirrorDoesNotBegin(t *testing.T) {
	if m, err := New(nil).NewMirror(t.Context()); !is(err, api.Invalid) {
		t.Errorf("%v, %v", m, err)
	}
	for want, answer := range map[api.Code]http.HandlerFunc{
		api.Forbidden: refuse(api.Forbidden),
		api.Internal:  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html>") },
	} {
		if m, err := servers(t, answer).client().NewMirror(t.Context()); !is(err, want) {
			t.Errorf("%v, %v", m, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if m, err := servers(t, refuse(api.NoLeader)).client().NewMirror(ctx); !is(err, api.Timeout) || !strings.Contains(err.Error(), "NO_LEADER") {
		t.Errorf("%v, %v", m, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	cl := servers(t, open())
	if m, err := cl.client().NewMirror(ctx); !is(err, api.Timeout) || !strings.Contains(err.Error(), cl.endpoints[0]) {
		t.Errorf("%v, %v", m, err)
	}
}

// The context of the constructor is that of the wait for a view.
func TestMirrorLivesOnUntilClosed(t *testing.T) {
	more := make(chan struct{})
	cl := servers(t, func(w http.ResponseWriter, r *http.Request) {
		lines(whole(1, 5))(w, r)
		<-more
		open(changed(1, 6))(w, r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	m, err := cl.client().NewMirror(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	close(more)
	if err := m.WaitIndex(bounded(t), 6); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() { waited <- m.WaitIndex(bounded(t), 7) }()
	m.Close()
	m.Close()
	if err := <-waited; !is(err, api.Unavailable) {
		t.Errorf("%v", err)
	}
	if m.View().Index() != 6 || m.Err() == nil {
		t.Errorf("index %d, %v", m.View().Index(), m.Err())
	}
	if err := m.WaitIndex(t.Context(), 6); err != nil {
		t.Error(err)
	}
}
