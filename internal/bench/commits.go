package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	// settle is the time at the start of a turn that is not measured: connections are new, and caches are cold.
	settle = 500 * time.Millisecond
	// lastAnswers bounds how long the last answers of a turn may take.
	lastAnswers = 10 * time.Second
	// changedIDs is how many nodes, or keys, are changed again and again. The registry takes 16 Ki nodes. Every number of
	// clients divides it, so that no two clients change the same one.
	changedIDs = 4096
	// valueBytes is the length of the address, or value, that a change sets.
	valueBytes = 100
)

// commitLoads are the numbers of clients, and what the registry's throughput through RESP should be of etcd's at least.
var commitLoads = []struct {
	clients int
	target  float64
}{{1, 0.8}, {16, 1.3}, {64, 2.2}, {256, 3}}

const (
	// tailClients is the number of clients at which the registry's p99 through RESP should be tailTarget of etcd's at most.
	tailClients = 64
	tailTarget  = 0.5
)

// changer is one client with one connection, to the leader.
type changer interface {
	// change sets the value of id and returns when that is acknowledged.
	change(ctx context.Context, id int, value string) error
	close() error
}

// committing is a system whose commits are measured.
type committing struct {
	name string
	// connect makes a client, which fails once ctx has ended.
	connect func(ctx context.Context) (changer, error)
	// cpu is the processor time of its servers.
	cpu func() (time.Duration, error)

	seq   atomic.Uint64  // of the last change
	turns map[int][]turn // by the number of clients
}

// turn is what was measured of one system with one number of clients in one round.
type turn struct {
	rate             float64 // changes a second
	p50, p99         time.Duration
	inServer, inSelf time.Duration // processor time for a change, in all servers and in this process
}

// commits measures how many changes are acknowledged with some numbers of clients, beside etcd.
func commits(ctx context.Context, r *report, ours *registry, o options, dir string) (err error) {
	etcds, err := startEtcds(ctx, o, dir)
	defer func() {
		for _, e := range slices.Backward(etcds) {
			err = errors.Join(err, e.stop())
		}
	}()
	if err != nil {
		return err
	}
	all := []*committing{ours.throughRESP(), ours.throughHTTP()}
	for _, e := range etcds {
		all = append(all, e.committing())
	}
	for _, s := range all {
		s.turns = map[int][]turn{}
	}
	for round := range o.rounds {
		for _, load := range commitLoads {
			for _, s := range all {
				t, err := s.turn(ctx, load.clients, o.turn)
				if err != nil {
					return fmt.Errorf("round %d of %s with %d clients: %w", round+1, s.name, load.clients, err)
				}
				s.turns[load.clients] = append(s.turns[load.clients], t)
			}
		}
	}
	for _, e := range etcds {
		if err := e.sameLeader(ctx); err != nil {
			return err
		}
	}
	reportCommits(r, all[:2], all[2:], o)
	return r.err
}

// turn has clients that each send the next change when the one before is answered.
func (s *committing) turn(ctx context.Context, clients int, length time.Duration) (t turn, err error) {
	ctx, end := context.WithTimeoutCause(ctx, settle+length+lastAnswers, fmt.Errorf("not all had their last answer %v after the turn", lastAnswers))
	defer end()
	ctx, fail := context.WithCancelCause(ctx)
	var ended sync.WaitGroup
	took := make([]sample, clients)
	var each []changer
	defer func() {
		for _, c := range each {
			err = errors.Join(err, c.close())
		}
	}()
	defer fail(nil)
	for range clients {
		c, err := s.connect(ctx)
		if err != nil {
			return t, err
		}
		each = append(each, c)
	}
	from := time.Now().Add(settle)
	to := from.Add(length)
	for i, c := range each {
		ended.Go(func() {
			var err error
			if took[i], err = s.repeat(ctx, c, i, clients, from, to); err != nil {
				fail(err) // what the others do is of no use any more
			}
		})
	}
	server, self, err := s.spent(ctx, from, to)
	ended.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return t, cause
	}
	if err != nil {
		return t, err
	}
	answers := slices.Concat(took...)
	if len(answers) == 0 {
		return t, fmt.Errorf("no change was answered in %v", length)
	}
	n := time.Duration(len(answers))
	return turn{float64(n) / length.Seconds(), answers.median(), answers.at(0.99), server / n, self / n}, nil
}

// repeat makes changes as client i of clients until a time, and returns how long those took whose answers came between.
func (s *committing) repeat(ctx context.Context, c changer, i, clients int, from, to time.Time) (took sample, err error) {
	for k := 0; ; k++ {
		began := time.Now()
		if !began.Before(to) {
			return took, nil
		}
		id, value := (i+k*clients)%changedIDs, addressed(s.seq.Add(1))
		if err := c.change(ctx, id, value); err != nil {
			return took, fmt.Errorf("client %d, change %d, of %d to %s: %w", i, k, id, value, err)
		}
		if now := time.Now(); !now.Before(from) && now.Before(to) {
			took = append(took, now.Sub(began))
		}
	}
}

// addressed is an address of valueBytes that no other number has.
func addressed(seq uint64) string { return fmt.Sprintf("%0*d:1", valueBytes-len(":1"), seq) }

// spent is the processor time between two times, of the servers and of this process.
func (s *committing) spent(ctx context.Context, from, to time.Time) (server, self time.Duration, err error) {
	for _, at := range []time.Time{from, to} {
		if err := process.Sleep(ctx, time.Until(at)); err != nil {
			return 0, 0, err
		}
		of, err := s.cpu()
		if err != nil {
			return 0, 0, err
		}
		own, err := cpuOf(os.Getpid())
		if err != nil {
			return 0, 0, err
		}
		server, self = of-server, own-self // the second time: what came on top
	}
	return server, self, nil
}

func reportCommits(r *report, ours, etcds []*committing, o options) {
	r.line("%d rounds in turns of %v each, the first %v before it not counted; medians of the rounds (least – most); changes of %d B.\n",
		o.rounds, o.turn, settle, valueBytes)
	r.header("clients", "system", "changes/s", "p50, ms", "p99, ms", "processor, µs a change: servers", "clients")
	for _, load := range commitLoads {
		for _, s := range slices.Concat(ours, etcds) {
			t := s.turns[load.clients]
			r.row(fmt.Sprint(load.clients), s.name, spread(t, "%.0f", func(t turn) float64 { return t.rate }),
				spread(t, "%.2f", func(t turn) float64 { return ms(t.p50) }), spread(t, "%.2f", func(t turn) float64 { return ms(t.p99) }),
				spread(t, "%.0f", func(t turn) float64 { return 1000 * ms(t.inServer) }), spread(t, "%.0f", func(t turn) float64 { return 1000 * ms(t.inSelf) }))
		}
	}
	for _, e := range etcds {
		r.line("")
		r.header("clients", "of "+e.name, "changes/s", "target, at least", "p50", "p99", "target, at most")
		for _, load := range commitLoads {
			for i, s := range ours {
				least, most := "", ""
				if i == 0 { // through RESP
					least = fmt.Sprint(load.target)
					if load.clients == tailClients {
						most = fmt.Sprint(tailTarget)
					}
				}
				of := ratios(s.turns[load.clients], e.turns[load.clients])
				r.row(fmt.Sprint(load.clients), s.name, spread(of, "%.2f", func(t beside) float64 { return t.rate }), least,
					spread(of, "%.2f", func(t beside) float64 { return t.p50 }), spread(of, "%.2f", func(t beside) float64 { return t.p99 }), most)
			}
		}
	}
}

// beside is the ratios of one system's turn to another's in the same round.
type beside struct{ rate, p50, p99 float64 }

func ratios(ours, others []turn) (out []beside) {
	for i, t := range ours {
		u := others[i]
		out = append(out, beside{t.rate / u.rate, float64(t.p50) / float64(u.p50), float64(t.p99) / float64(u.p99)})
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// spread is the median of a figure of each round, with the least and the most.
func spread[T any](rounds []T, format string, figure func(T) float64) string {
	var all []float64
	for _, x := range rounds {
		all = append(all, figure(x))
	}
	return spreadOf(all, format)
}
