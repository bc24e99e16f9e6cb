package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/scope-registry/scope-registry/internal/overlay"
	"github.com/scope-registry/scope-registry/internal/process"
)

// idleTime is how long the processor time at rest is taken.
const idleTime = 5 * time.Second

// variant is our server, built with another setting than it is released with.
type variant struct {
	timeout string // CommitTimeout in Go's words
	notices bool
	edits   []overlay.Edit
}

// variants are what the choice is of, the released one among them.
func variants() (all []variant) {
	const registry = "internal/registry/"
	for _, timeout := range []string{"1", "5", "10", "50"} {
		v := variant{timeout: timeout + " ms"}
		if timeout != "50" {
			v.edits = append(v.edits, overlay.Edit{File: registry + "config.go", From: "commitTimeout = 50 * time.Millisecond", To: "commitTimeout = " + timeout + " * time.Millisecond"})
		}
		silent := v
		silent.edits = append(silent.edits[:len(silent.edits):len(silent.edits)], overlay.Edit{File: registry + "notices.go", From: "f.telling || f.raftAsks > 0", To: "f.telling || f.raftAsks >= 0"})
		v.notices = true
		all = append(all, silent, v)
	}
	return all
}

// lags measures how late a follower is, beside what it costs at rest, for some settings.
func lags(ctx context.Context, r *report, o options, dir string) error {
	r.line("%d changes of each, one at a time, through the leader, with a pause of %v to %v before each.\n", o.events, between, 2*between)
	r.header("CommitTimeout", "notices", "change → at a follower's mirror, ms: p50", "p99", "through that follower → answer, ms: p50", "p99", "at rest, of a core: leader", "each follower")
	for i, v := range variants() {
		home := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(home, 0o700); err != nil {
			return err
		}
		bin, err := process.Build(ctx, ".", home, "./cmd/scope-registry", v.edits...)
		if err != nil {
			return err
		}
		if err := v.measure(ctx, r, bin, home, o); err != nil {
			return fmt.Errorf("CommitTimeout %s, notices %v: %w", v.timeout, v.notices, err)
		}
	}
	return r.err
}

func (v variant) measure(ctx context.Context, r *report, bin, dir string, o options) (err error) {
	ours, err := startRegistry(ctx, dir, bin, defaultTiming)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	leader, follower, err := idle(ctx, ours.group, ours.leader)
	if err != nil {
		return err
	}
	all, err := newMirrored(ctx, ours, ours.throughHTTP(), firstWatched)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, all.stop()) }()
	at := *ours // the follower in all places
	at.urls = []string{ours.urls[ours.follower()], ours.urls[ours.follower()], ours.urls[ours.follower()]}
	all.registry = &at
	w := newWatched(all, 0, rested)
	if err := w.round(ctx, 0, 1, o.events, false); err != nil {
		return err
	}
	through := &mirrored{registry: &at, node: all.node, key: all.key, index: all.index, through: httpChanger{newClient(at.urls[0])}}
	defer func() { err = errors.Join(err, through.stop()) }()
	f := newWatched(through, w.seq, rested)
	if err := f.round(ctx, 0, 1, o.events, false); err != nil {
		return err
	}
	r.row(v.timeout, map[bool]string{false: "no", true: "yes"}[v.notices], inMS(w.paces[0].event.median()), inMS(w.paces[0].event.at(0.99)),
		inMS(f.paces[0].answer.median()), inMS(f.paces[0].answer.at(0.99)), share(leader), share(follower))
	return errors.Join(r.err, ours.sameLeader(ctx))
}

// idle is the processor time for each second of one that leads, and of each other one.
func idle(ctx context.Context, g group, leader int) (ofLeader, ofFollower float64, err error) {
	if err := process.Sleep(ctx, settle); err != nil {
		return 0, 0, err
	}
	before := make([]time.Duration, len(g))
	began := time.Now()
	for i, p := range g {
		if before[i], err = cpuOf(p.Pid()); err != nil {
			return 0, 0, err
		}
	}
	if err := process.Sleep(ctx, idleTime); err != nil {
		return 0, 0, err
	}
	for i, p := range g {
		now, err := cpuOf(p.Pid())
		if err != nil {
			return 0, 0, err
		}
		of := (now - before[i]).Seconds() / time.Since(began).Seconds()
		if i == leader {
			ofLeader = of
		} else {
			ofFollower += of / float64(len(g)-1)
		}
	}
	return ofLeader, ofFollower, nil
}

func share(of float64) string { return fmt.Sprintf("%.1f %%", 100*of) }
