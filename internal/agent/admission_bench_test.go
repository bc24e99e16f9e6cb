package agent

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// inForce is an admission of a node that is ready and owns the first own of
// total scopes p00000: and so on, with the other records of others.
func inForce(t testing.TB, own, total int, fallback bool) *Admission {
	cfg := Config{Node: "n1", Times: api.DefaultLeases(), Stripes: 8}
	s := New(cfg, 0, nil)
	a := NewAdmission(s)
	step := func(e Event) {
		var effects []Effect
		s, effects = Step(s, 0, e)
		for _, effect := range effects {
			if p, ok := effect.(Publish); ok {
				a.Publish(p.Rules)
			}
		}
	}
	step(Tick{})
	inc := Incarnation{1, "x"}
	it := api.WatchItem{Type: "snapshot", Index: 10, Incarnation: 1, Tag: "x", Changes: []api.Change{clusterChange(inc, words{})}}
	it.Changes = append(it.Changes, api.Change{Op: "put", Node: &api.NodeState{Node: api.Node{ID: "n1"}}})
	for i := range total {
		sc := &api.Scope{Prefix: fmt.Sprintf("p%05d:", i), Owner: "n1", Writer: "n1", Epoch: uint64(i + 1), State: "owned"}
		if i >= own {
			sc.Owner, sc.Writer = "n2", "n2"
		}
		if fallback {
			sc.Fallback = "n3"
		}
		it.Changes = append(it.Changes, api.Change{Op: "put", Scope: sc})
	}
	step(Watched{1, it})
	step(Opened{Session: "s1", Index: 11, Incarnation: inc})
	step(Watched{1, api.WatchItem{Type: "change", Index: 11, Incarnation: 1, Tag: "x", Changes: []api.Change{
		{Op: "put", Node: &api.NodeState{Node: api.Node{ID: "n1"}, Session: &api.Session{ID: "s1", Opened: 11}}}}}})
	step(Renewed{"s1", 0, 8 * time.Second, 11})
	if !s.Ready() {
		t.Fatal("the node is not ready")
	}
	return a
}

// write is what a guard does around the store's own work.
func write(a *Admission, key []byte, clock func() time.Duration, stripe uint32) error {
	t, err := a.Enter(key, clock, stripe)
	if err != nil {
		return err
	}
	err = a.Check(&t, key, clock)
	a.Leave(&t)
	return err
}

// A lease's clock costs a call; a constant shows what the admission itself does.
func standing() time.Duration { return time.Second }

func running() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Since(began) % time.Second }
}

// BenchmarkWrite is Enter, Check and Leave of one write. "goroutines" share the
// cores; a stripe of its own is each one's.
func BenchmarkWrite(b *testing.B) {
	for _, size := range []struct{ own, total int }{{10, 10}, {1000, 1000}, {1000, 100_000}} {
		for _, kind := range []struct {
			name  string
			lease bool
			clock func() time.Duration
		}{{"plain", false, standing}, {"lease", true, standing}, {"lease-clock", true, running()}} {
			a := inForce(b, size.own, size.total, kind.lease)
			for _, goroutines := range []int{1, 8} {
				b.Run(fmt.Sprintf("own=%d/of=%d/%s/goroutines=%d", size.own, size.total, kind.name, goroutines), func(b *testing.B) {
					benchWrites(b, a, size.own, kind.clock, goroutines)
				})
			}
		}
	}
}

func benchWrites(b *testing.B, a *Admission, own int, clock func() time.Duration, goroutines int) {
	b.ReportAllocs()
	var failed atomic.Int64
	var all sync.WaitGroup
	for g := range goroutines {
		keys := make([][]byte, 64)
		for i := range keys {
			keys[i] = fmt.Appendf(nil, "p%05d:customer:%d", (i*7+g)%own, i)
		}
		all.Add(1)
		go func() {
			defer all.Done()
			for i := range b.N / goroutines {
				if write(a, keys[i%64], clock, uint32(g)) != nil {
					failed.Add(1)
				}
			}
		}()
	}
	all.Wait()
	if n := failed.Load(); n > 0 {
		b.Fatalf("%d writes were refused", n)
	}
}

// BenchmarkStep is what a heartbeat and a change of one scope cost a node that
// sees many; each publishes rules.
func BenchmarkStep(b *testing.B) {
	for _, total := range []int{1000, 100_000} {
		b.Run("scopes="+strconv.Itoa(total), func(b *testing.B) {
			s := stateOf(b, total)
			b.ReportAllocs()
			index := uint64(12)
			for b.Loop() {
				index++
				s, _ = Step(s, time.Second, Watched{1, api.WatchItem{Type: "change", Index: index, Incarnation: 1, Tag: "x", Changes: []api.Change{
					{Op: "put", Scope: &api.Scope{Prefix: "p00005:", Owner: "n1", Writer: "n1", Epoch: index, State: "owned"}}}}})
			}
		})
	}
}

func stateOf(t testing.TB, total int) State {
	s := New(Config{Node: "n1", Times: api.DefaultLeases(), Stripes: 8}, 0, nil)
	s, _ = Step(s, 0, Tick{})
	it := api.WatchItem{Type: "snapshot", Index: 10, Incarnation: 1, Tag: "x", Changes: []api.Change{clusterChange(Incarnation{1, "x"}, words{})}}
	for i := range total {
		it.Changes = append(it.Changes, api.Change{Op: "put", Scope: &api.Scope{Prefix: fmt.Sprintf("p%05d:", i), Owner: "n" + strconv.Itoa(1+i%3), Epoch: 1, State: "owned"}})
	}
	s, _ = Step(s, 0, Watched{1, it})
	if s.View().Index() != 10 {
		t.Fatal("no view")
	}
	return s
}

// TestWriteAllocatesNothing: a garbage collection because of writes that are
// admitted would pause them.
func TestWriteAllocatesNothing(t *testing.T) {
	key := []byte("p00003:customer:17")
	keys := [][]byte{key, []byte("p00003:customer:18")}
	for _, fallback := range []bool{false, true} {
		a := inForce(t, 10, 100, fallback)
		newer := *a.Rules() // the same, and another value
		for name, one := range map[string]func() error{
			"one key": func() error { return write(a, key, standing, 3) },
			"two keys": func() error {
				ticket, err := a.EnterKeys(keys, at(time.Second), 3)
				if err == nil {
					err = a.CheckKeys(&ticket, keys, at(time.Second))
					a.Leave(&ticket)
				}
				return err
			},
			"no scope": func() error { return write(a, []byte("free"), standing, 3) },
			"rules that came since": func() error {
				ticket, err := a.Enter(key, at(time.Second), 3)
				ticket.rules = &newer
				if err == nil {
					err = a.Check(&ticket, key, at(time.Second))
					a.Leave(&ticket)
				}
				return err
			},
		} {
			var err error
			if n := testing.AllocsPerRun(100, func() { err = one() }); n != 0 || err != nil {
				t.Errorf("%s, fallback %v: %v allocations, error %v", name, fallback, n, err)
			}
		}
	}
}
