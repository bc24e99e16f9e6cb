package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// record is the state of the registry as the world below has it: what a view must
// show, worked out without any of the code of views.
type record struct {
	incarnation, index uint64
	hold               bool
	nodes, scopes      map[string]api.Change
}

func (r record) clone() record {
	r.nodes, r.scopes = maps.Clone(r.nodes), maps.Clone(r.scopes)
	return r
}

// snapshot is all of it, the cluster first.
func (r record) snapshot() []api.Change {
	out := []api.Change{r.cluster()}
	for _, m := range []map[string]api.Change{r.nodes, r.scopes} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			out = append(out, m[k])
		}
	}
	return out
}

func (r record) cluster() api.Change {
	return api.Change{Op: "put", Cluster: &api.ClusterRecord{Incarnation: r.incarnation, Tag: "t", Hold: r.hold}}
}

// text is what a view of it shows.
func (r record) text() string {
	out := fmt.Sprint(r.hold)
	for _, k := range slices.Sorted(maps.Keys(r.scopes)) {
		s := r.scopes[k].Scope
		out += fmt.Sprintf(" %s=%s/%d>%s", s.Prefix, s.Owner, s.Epoch, s.Target)
	}
	for i := range worldNodes {
		id := nodeName(i)
		if n, ok := r.nodes[id]; ok {
			id = n.Node.Addr
		}
		out += " " + id
	}
	return out
}

func textOf(v View) string {
	out := fmt.Sprint(v.Holds())
	for s := range v.Scopes("") {
		out += fmt.Sprintf(" %s=%s/%d>%s", s.Prefix.Text(), s.Owner, s.Epoch, s.Quiesced)
	}
	for i := range worldNodes {
		out += " " + v.Addr(scope.NodeID(nodeName(i)))
	}
	return out
}

const (
	worldNodes  = 5
	worldScopes = 8
)

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

// world is a registry whose servers do whatever servers may do.
type world struct {
	mu     sync.Mutex // guards the rest
	rng    *rand.Rand
	items  []api.WatchItem // of all incarnations
	states []record        // after each
	told   uint64          // the latest incarnation that the mirror has heard of
	begun  bool            // the mirror has a view
	well   bool            // the servers do what they should from now on
	moved  chan struct{}   // closed when there is a new item
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0)), moved: make(chan struct{})}
	w.states = []record{{incarnation: 1, index: 3, nodes: map[string]api.Change{}, scopes: map[string]api.Change{}}}
	w.items = []api.WatchItem{{}}
	return w
}

func (w *world) last() record { return w.states[len(w.states)-1] }

// step has something happen. mu is held.
func (w *world) step() {
	s := w.last().clone()
	s.index += 1 + w.rng.Uint64N(3)
	item := changed(s.incarnation, s.index)
	if w.rng.IntN(12) == 0 { // a restore, to some index before or after
		back := w.states[w.rng.IntN(len(w.states))].clone()
		back.incarnation, back.hold = s.incarnation+1, true
		back.index += w.rng.Uint64N(5)
		w.publish(api.WatchItem{}, back)
		return
	}
	for range w.rng.IntN(4) {
		var c api.Change
		switch name, p := nodeName(w.rng.IntN(worldNodes)), fmt.Sprintf("p%d:", w.rng.IntN(worldScopes)); w.rng.IntN(6) {
		case 0:
			s.hold = !s.hold
			c = s.cluster()
		case 1:
			c = nodeAt(name, fmt.Sprintf("%s:%d", name, s.index))
			s.nodes[name] = c
		case 2:
			if w.rng.IntN(4) > 0 {
				continue
			}
			c = nodeAt(name, "")
			c.Op = "delete"
			delete(s.nodes, name)
		case 3:
			old, ok := s.scopes[p]
			if !ok {
				continue
			}
			c = old
			c.Op = "delete"
			delete(s.scopes, p)
		case 4:
			c = moving(p, name, "n0", s.index)
			s.scopes[p] = c
		default:
			c = owned(p, name, s.index)
			s.scopes[p] = c
		}
		item.Changes = append(item.Changes, c)
	}
	w.publish(item, s)
}

func (w *world) publish(item api.WatchItem, s record) {
	w.items, w.states = append(w.items, item), append(w.states, s)
	close(w.moved)
	w.moved = make(chan struct{})
}

// at is the state that a view claims to show: of its incarnation, the last one not
// after its index. ok is false if that incarnation never was.
func (w *world) at(incarnation, index uint64) (found record, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.states {
		if s.incarnation == incarnation && (s.index <= index || !ok) {
			found, ok = s, true
		}
	}
	return found, ok
}

// chance is true in one of n cases, unless all servers are well. mu is held.
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 && !w.well }

func (w *world) serve(ctx context.Context, from uint64, out io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	enc := json.NewEncoder(out)
	// send lets go of mu while the reader is slow.
	send := func(item api.WatchItem) bool {
		w.mu.Unlock()
		err := enc.Encode(item)
		w.mu.Lock()
		if err == nil {
			w.told = max(w.told, item.Incarnation)
		}
		return err == nil && ctx.Err() == nil
	}
	pos := len(w.states) - 1
	if w.chance(3) { // it lags, perhaps in an older incarnation
		pos -= w.rng.IntN(min(pos+1, 6))
	}
	state := w.states[pos]
	if from == 0 {
		if !w.sendSnapshot(state, send) {
			return
		}
		from = state.index
	} else {
		for pos > 0 && w.states[pos].index > from && w.states[pos-1].incarnation == state.incarnation {
			pos--
		}
		if w.states[pos].index > from || w.chance(8) {
			send(failure(api.Compacted))
			return
		}
	}
	w.follow(ctx, pos, from, send)
}

func (w *world) sendSnapshot(s record, send func(api.WatchItem) bool) bool {
	tag := "t"
	if w.begun && s.incarnation <= w.told && w.chance(12) { // another history under a number that the mirror has met
		tag = "wrong"
		s = s.clone()
		s.scopes["p0:"] = owned("p0:", tag, 1)
	}
	all := s.snapshot()
	for len(all) > 0 {
		n := 1 + w.rng.IntN(len(all))
		item := in(s.incarnation, tag, snap(s.index, n < len(all)))
		item.Changes, all = all[:n], all[n:]
		if c := item.Changes[0].Cluster; c != nil {
			c.Tag = tag
		}
		if !send(item) || w.chance(10) {
			return false
		}
	}
	return true
}

// follow sends what comes after the state at pos, and heartbeats.
func (w *world) follow(ctx context.Context, pos int, from uint64, send func(api.WatchItem) bool) {
	incarnation := w.states[pos].incarnation
	for {
		for pos+1 < len(w.states) {
			pos++
			if w.states[pos].incarnation != incarnation {
				send(failure(api.Compacted))
				return
			}
			if item := w.items[pos]; item.Index > from && len(item.Changes) > 0 && !send(item) {
				return
			}
			from = max(from, w.states[pos].index)
			switch {
			case w.chance(15):
				send(failure(api.Slow))
				return
			case w.chance(14):
				return
			case w.chance(20): // silent from now on
				w.mu.Unlock()
				<-ctx.Done()
				w.mu.Lock()
				return
			case w.chance(5):
				if !send(beat(incarnation, from)) {
					return
				}
			}
		}
		if !send(beat(incarnation, from)) {
			return
		}
		moved := w.moved
		w.mu.Unlock()
		t := time.NewTimer(time.Second)
		select {
		case <-moved:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		w.mu.Lock()
	}
}

func (w *world) client() *Client {
	return New([]string{"a", "b", "c"}, WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		w.mu.Lock()
		refused := w.chance(10)
		w.mu.Unlock()
		if refused {
			return nil, fmt.Errorf("cut off")
		}
		from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
		if err != nil {
			return nil, err
		}
		resp := streaming(r, func(ctx context.Context, out io.Writer) { w.serve(ctx, from, out) })
		resp.Header = http.Header{}
		return resp, nil
	})}))
}

// Whatever servers do, every view that a mirror shows is the state of the registry
// at its index, none is of before the last one, and when the servers are well the
// mirror has the last state.
func TestMirrorShowsWhatWas(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(seed)
			for range 5 {
				w.step()
			}
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			m, err := w.client().newMirror(ctx, func() time.Duration { return time.Since(start) })
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			defer m.Close()
			w.mu.Lock()
			w.begun = true
			w.mu.Unlock()
			healed := make(chan struct{})
			go func() {
				for range 60 {
					sleep(ctx, time.Duration(w.rngN(1500))*time.Millisecond)
					w.mu.Lock()
					w.step()
					w.mu.Unlock()
				}
				w.mu.Lock()
				w.well = true
				w.mu.Unlock()
				close(healed)
			}()
			if msg := watchAll(ctx, w, m, healed); msg != "" {
				t.Errorf("seed %d: %s; %v", seed, msg, m.Err())
			}
		})
	}
}

func (w *world) rngN(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// watchAll looks at every view until the last state of the world is there. It says
// what was wrong.
func watchAll(ctx context.Context, w *world, m *Mirror, healed <-chan struct{}) string {
	var was View
	for {
		next := m.Changed()
		v := m.View()
		if v.Incarnation() < was.Incarnation() || v.Incarnation() == was.Incarnation() && v.Index() < was.Index() {
			return fmt.Sprintf("index %d of incarnation %d after %d of %d", v.Index(), v.Incarnation(), was.Index(), was.Incarnation())
		}
		was = v
		s, ok := w.at(v.Incarnation(), v.Index())
		if got := textOf(v); !ok || got != s.text() {
			return fmt.Sprintf("index %d of incarnation %d shows\n%s, want\n%s", v.Index(), v.Incarnation(), got, s.text())
		}
		w.mu.Lock()
		last, done := w.last(), w.well
		w.mu.Unlock()
		if done && v.Incarnation() == last.incarnation && v.Index() == last.index {
			return ""
		}
		select {
		case <-next:
		case <-healed: // the last view may have come before
			healed = nil
		case <-ctx.Done():
			return fmt.Sprintf("stands at index %d of incarnation %d, the world at %d of %d", v.Index(), v.Incarnation(), last.index, last.incarnation)
		}
	}
}
