package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash"
	"github.com/scope-registry/scope-registry/internal/direct"
	"github.com/scope-registry/scope-registry/internal/link"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	// reads are sent to a leader that is stopped, each on a connection of its own.
	reads = 8
	// node is the node whose address is changed and read.
	node = "n"
	// openTime bounds the start, and readyTime the way back of a leader that was stopped.
	openTime, readyTime = time.Minute, time.Minute
	// changeTime bounds one mutation: an election of the default timing, and more.
	changeTime = 30 * time.Second
	// readTime bounds a read after its server goes on.
	readTime = 20 * time.Second
	// retryPause is the pause before a mutation is sent again.
	retryPause = 20 * time.Millisecond
	// pauseSpread is the longest the leader leads over slow links before it is stopped.
	pauseSpread = 200 * time.Millisecond
	// holdSpread is the longest an old answer of a follower comes after the leader goes on.
	holdSpread = 20 * time.Millisecond
)

// system is three servers whose links to each other go through cables.
type system struct {
	o      options
	c      *crash.Cluster
	net    *link.Net
	cables []*link.Cable // to each server
	rnd    *rand.Rand
	seq    uint64 // of the last address
}

// open starts the servers and waits until all are ready.
func open(ctx context.Context, o options, bin, dir string) (*system, error) {
	s := &system{o: o, net: link.New(), rnd: rand.New(rand.NewPCG(o.seed, 0))}
	var err error
	s.c, err = crash.Open(crash.Config{Bin: bin, Dir: dir, Timing: "default", Front: func(id, listen string) (string, error) {
		c, err := s.net.Lay(link.Server, id, listen)
		if err != nil {
			return "", err
		}
		s.cables = append(s.cables, c)
		return c.Addr(), nil
	}})
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, openTime)
		defer cancel()
		err = s.c.WaitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *system) close() error {
	var errs []error
	if s.c != nil {
		errs = append(errs, s.c.Close())
	}
	for _, c := range s.cables {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// slow has the links of a server take so long each way.
func (s *system) slow(id string, delay time.Duration) {
	for _, other := range s.c.IDs() {
		if other != id {
			w := link.Way{From: id, To: other}
			s.net.Set("slow", w, link.State{Delay: delay})
			s.net.Set("slow", w.Back(), link.State{Delay: delay})
		}
	}
}

// round is one attempt.
type round struct {
	void                 string        // why it says nothing
	held                 bool          // an answer of a follower was kept back until the leader went on
	stood                time.Duration // for which the leader stood still
	stale, fresh, failed int           // reads
	codes                map[api.Code]int
	first                string // stale read
}

func (s *system) round(ctx context.Context) (r round, err error) {
	leader, err := s.c.Leader(ctx)
	if err != nil {
		return r, err
	}
	s.slow(leader, s.o.delay)
	defer s.slow(leader, 0)
	if _, err := s.change(ctx, s.c.IDs()...); err != nil {
		return r, err
	}
	if err := process.Sleep(ctx, time.Duration(s.rnd.Int64N(int64(pauseSpread)))); err != nil {
		return r, err
	}
	now, err := s.c.Leader(ctx)
	if err != nil || now != leader {
		return round{void: fmt.Sprintf("%s led no more, over slow links", leader)}, err
	}
	r, err = s.stop(ctx, leader)
	s.slow(leader, 0)
	if err != nil {
		return r, err
	}
	ready, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	return r, s.c.WaitReady(ready)
}

// stop stops the leader while the others go on without it, and reads from it when it
// goes on. In half of all rounds what one follower says is kept back from just before
// the stop until just after it.
func (s *system) stop(ctx context.Context, leader string) (r round, err error) {
	var others []string
	for _, id := range s.c.IDs() {
		if id != leader {
			others = append(others, id)
		}
	}
	hold := link.Way{From: others[s.rnd.IntN(len(others))], To: leader}
	mend := func() { s.net.Set("hold", hold, link.State{}) }
	after := time.Duration(s.rnd.Int64N(int64(holdSpread)))
	if r.held = s.rnd.IntN(2) == 0; r.held {
		s.net.Set("hold", hold, link.State{Cut: true})
		defer mend()
	}
	began := time.Now()
	if err := s.c.Program(leader).Pause(); err != nil {
		return r, err
	}
	seq, err := s.change(ctx, others...)
	if err != nil {
		return r, errors.Join(err, s.c.Program(leader).Resume())
	}
	answers, sent, end := s.read(ctx, leader, seq)
	defer end()
	if err := sent(); err != nil {
		return r, errors.Join(err, s.c.Program(leader).Resume())
	}
	if err := s.c.Program(leader).Resume(); err != nil {
		return r, err
	}
	r.stood = time.Since(began)
	if r.held {
		if err := process.Sleep(ctx, after); err != nil {
			return r, err
		}
		mend()
	}
	r.judge(answers(), seq, leader)
	return r, s.c.Crashed()
}

// change gives the node its next address through servers, and returns its number when
// one of them has acknowledged it.
func (s *system) change(ctx context.Context, servers ...string) (uint64, error) {
	s.seq++
	ask := crash.Ask{Method: http.MethodPut, Path: "/v1/nodes/" + node, RequestID: fmt.Sprintf("0-%016x%016x", s.rnd.Uint64(), s.seq),
		Body: api.Node{ID: node, Addr: fmt.Sprintf("change-%d:1", s.seq)}}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	for i := 0; ; i++ {
		_, err := s.c.Do(ctx, servers[i%len(servers)], ask, nil)
		if err == nil {
			return s.seq, nil
		}
		if process.Sleep(ctx, retryPause) != nil {
			return 0, fmt.Errorf("no server of %v acknowledged a mutation: %w", servers, err)
		}
	}
}

// answer is what became of a read.
type answer struct {
	addr string
	err  error
}

// read begins linearizable reads at a server. sent waits until all of them are with
// the kernel for it, and answers until each has its answer.
func (s *system) read(ctx context.Context, id string, seq uint64) (answers func() []answer, sent func() error, end func()) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	all, wrote := make([]answer, reads), make(chan struct{}, reads)
	var running sync.WaitGroup
	for i := range all {
		running.Go(func() {
			server := direct.New(id, "http://"+s.c.HTTP(id), nil)
			defer server.Close()
			var n api.NodeState
			traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
				select {
				case wrote <- struct{}{}:
				default: // it was sent twice
				}
			}})
			_, err := server.Do(traced, direct.Get("/v1/nodes/"+node, "consistency", "linearizable"), &n)
			all[i] = answer{n.Addr, err}
		})
	}
	sent = func() error {
		for range all {
			select {
			case <-wrote:
			case <-ctx.Done():
				return fmt.Errorf("reads after change %d could not be sent to %s: %w", seq, id, ctx.Err())
			}
		}
		return nil
	}
	answers = func() []answer {
		running.Wait()
		return all
	}
	return answers, sent, func() {
		cancel()
		running.Wait()
	}
}

// judge counts answers to reads that were sent after the change seq was acknowledged.
func (r *round) judge(all []answer, seq uint64, leader string) {
	r.codes = map[api.Code]int{}
	for _, a := range all {
		got, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(a.addr, "change-"), ":1"), 10, 64)
		switch {
		case a.err != nil:
			r.failed++
			r.codes[api.CodeOf(a.err)]++
		case err != nil || got < seq:
			r.stale++
			r.first = fmt.Sprintf("%s answered a linearizable read with %q, %v after it was stopped, and change %d had been acknowledged before the read was sent",
				leader, a.addr, r.stood.Round(time.Millisecond), seq)
		default:
			r.fresh++
		}
	}
}
