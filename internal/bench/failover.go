package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	// calm is the pause before a leader is killed, at least; up to as much again is added by chance, so that deaths do
	// not fall into step with heartbeats.
	calm = 500 * time.Millisecond
	// tryTime bounds one try, so that one which hangs at a server that knows no leader does not count for the system.
	tryTime = 250 * time.Millisecond
	// tryPause is the pause between two tries at a server.
	tryPause = 5 * time.Millisecond
	// failoverTime bounds the wait for the next acknowledged mutation.
	failoverTime = 30 * time.Second
)

// mortal is a system whose leader is killed.
type mortal struct {
	name string
	all  *group
	// lead is the place of the leader.
	lead func(ctx context.Context) (int, error)
	// whole is nil when every server answers and follows.
	whole func(ctx context.Context) error
	// change makes one mutation through one server. It does not go to another one.
	change func(ctx context.Context, at int, seq uint64) error
	end    func() error

	seq   uint64
	times sample
}

// failovers measures how long nobody can write after the leader was killed.
func failovers(ctx context.Context, r *report, o options, dir string) (err error) {
	var all []*mortal
	defer func() {
		for _, m := range slices.Backward(all) {
			err = errors.Join(err, m.end())
		}
	}()
	for _, timing := range []string{"fast", defaultTiming, "wan"} {
		home := filepath.Join(dir, timing)
		if err := os.Mkdir(home, 0o700); err != nil {
			return err
		}
		ours, err := startRegistry(ctx, home, o.bin, timing)
		if err != nil {
			return err
		}
		all = append(all, ours.mortal(timing))
	}
	etcds, err := startEtcds(ctx, o, dir)
	for _, e := range etcds {
		m, err := e.mortal()
		if err != nil {
			return errors.Join(err, e.stop())
		}
		all = append(all, m)
	}
	if err != nil {
		return err
	}
	for i := range o.deaths {
		for _, m := range all {
			if err := m.death(ctx); err != nil {
				return fmt.Errorf("%s, death %d: %w", m.name, i+1, err)
			}
		}
	}
	r.samples("kill -9 of the leader → next acknowledged mutation", "ms")
	for _, m := range all {
		r.sampleRow(m.name, m.times, time.Millisecond)
	}
	return r.err
}

// death kills the leader, measures, and starts it again.
func (m *mortal) death(ctx context.Context) error {
	if err := m.all.wait(ctx, "every server", m.whole); err != nil {
		return err
	}
	if _, err := m.next(ctx); err != nil {
		return err
	}
	if err := process.Sleep(ctx, calm+rand.N(calm)); err != nil {
		return err
	}
	var leader *process.Program
	if err := m.all.wait(ctx, "a leader", func(ctx context.Context) error {
		at, err := m.lead(ctx)
		leader = (*m.all)[at]
		return err
	}); err != nil {
		return err
	}
	began := time.Now()
	if err := leader.Kill(); err != nil {
		return err
	}
	acked, err := m.next(ctx)
	if err != nil {
		return err
	}
	m.times = append(m.times, acked.Sub(began))
	return leader.Start()
}

// next asks all servers at once, again and again, until one acknowledges a mutation
// that was sent after the call, and returns when. What is measured so is the system,
// and not in which order a client tries its servers.
func (m *mortal) next(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, failoverTime)
	defer cancel()
	acked := make(chan time.Time, servers)
	errs := make([]error, servers)
	m.seq++
	seq := m.seq
	var all sync.WaitGroup
	for at := range servers {
		all.Go(func() {
			for ctx.Err() == nil {
				trying, end := context.WithTimeout(ctx, tryTime)
				err := m.change(trying, at, seq)
				end()
				if err == nil {
					acked <- time.Now()
					cancel()
					return
				}
				if ctx.Err() == nil {
					errs[at] = err
				}
				_ = process.Sleep(ctx, tryPause) // the loop sees that it ends
			}
		})
	}
	all.Wait()
	select {
	case at := <-acked:
		return at, nil
	default:
		return time.Time{}, fmt.Errorf("no mutation was acknowledged in %v: %w", failoverTime, errors.Join(errs...))
	}
}

// watchedNode is the node whose address changes.
const watchedNode = "watched"

// mortal is our servers with a timing.
func (r *registry) mortal(timing string) *mortal {
	var each []*client.Client
	for _, u := range r.urls {
		each = append(each, client.New([]string{u}))
	}
	return &mortal{name: "scope-registry, --timing " + timing, all: &r.group, lead: r.findLeader, whole: r.ready,
		change: func(ctx context.Context, at int, seq uint64) error {
			_, err := each[at].SetNode(ctx, api.Node{ID: watchedNode, Addr: numbered(seq)})
			return err
		},
		end: func() error {
			for _, c := range each {
				c.Close()
			}
			return r.stop()
		}}
}

// mortal is members of etcd.
func (e *etcd) mortal() (*mortal, error) {
	var each []*clientv3.Client
	end := func() error {
		var errs []error
		for _, c := range each {
			errs = append(errs, c.Close())
		}
		return errors.Join(append(errs, e.stop())...)
	}
	for i := range servers {
		c, err := e.dial(i)
		if err != nil {
			return nil, err
		}
		each = append(each, c)
	}
	lead := func(ctx context.Context) (int, error) {
		for i, c := range each {
			asking, cancel := context.WithTimeout(ctx, tryTime)
			status, err := c.Status(asking, e.urls[i])
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				return i, nil
			}
		}
		return 0, errors.New("no member leads")
	}
	return &mortal{name: e.name() + ", defaults", all: &e.group, lead: lead,
		whole: func(ctx context.Context) error {
			for i, c := range each {
				asking, cancel := context.WithTimeout(ctx, tryTime)
				_, err := c.Get(asking, etcdKey) // linearizable: it follows a leader
				cancel()
				if err != nil {
					return fmt.Errorf("member %s: %w", e.urls[i], err)
				}
			}
			_, err := lead(ctx)
			return err
		},
		change: func(ctx context.Context, at int, seq uint64) error {
			_, err := each[at].Put(ctx, etcdKey, fmt.Sprint(seq))
			return err
		},
		end: end}, nil
}
