package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

const (
	partMachine = "machine" // is always measured
	partMirrors = "mirrors"
	partCommits = "commits"
	partResp    = "resp"
)

// part is one table, or some, of the document.
type part struct {
	name  string
	etcd  bool // is measured beside etcd
	redis bool // is measured beside Redis
	// run measures with what it starts itself, in a directory of its own: what another part leaves in the servers' tables
	// is in every mirror.
	run func(ctx context.Context, r *report, o options, dir string) error
}

// parts are in the order in which they run.
func parts() []part {
	return []part{
		{name: "table", run: func(ctx context.Context, r *report, _ options, _ string) error { return inTable(ctx, r) }},
		{name: "guard", run: guards},
		{name: "move", run: besides(moves)},
		{name: partMirrors, etcd: true, run: besides(besideOthers)},
		{name: partCommits, etcd: true, run: besides(commits)},
		{name: "lag", run: lags},
		{name: "failover", etcd: true, run: failovers},
		{name: "rest", etcd: true, run: rests},
		{name: "million", run: withServers(million)},
		{name: partResp, redis: true, run: besides(routes)},
		{name: "gate", redis: true, run: besides(gateRates)},
		{name: "ship", redis: true, run: besides(ships)},
	}
}

func partNames() (names []string) {
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return names
}

// chosen are the parts that were asked for, in their order.
func chosen(o options) []part {
	return slices.DeleteFunc(parts(), func(p part) bool { return !slices.Contains(o.parts, p.name) })
}

// list prints the chosen parts, and with -v what is measured beside them.
func list(o options, to io.Writer) error {
	for _, p := range chosen(o) {
		line := p.name
		if o.needs && p.etcd {
			line += " etcd"
		}
		if o.needs && p.redis {
			line += " redis"
		}
		if _, err := fmt.Fprintln(to, line); err != nil {
			return err
		}
	}
	return nil
}

// ofServers measures three servers.
type ofServers func(ctx context.Context, r *report, ours *registry, o options, dir string) error

// withServers starts three servers with the default timing.
func withServers(do ofServers) func(context.Context, *report, options, string) error {
	return func(ctx context.Context, r *report, o options, dir string) (err error) {
		ours, err := startRegistry(ctx, dir, o.bin, defaultTiming)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ours.stop()) }()
		return do(ctx, r, ours, o, dir)
	}
}

// besides is withServers for what leaves the leader alone: a run in which it changed was disturbed.
func besides(do ofServers) func(context.Context, *report, options, string) error {
	return withServers(func(ctx context.Context, r *report, ours *registry, o options, dir string) error {
		return errors.Join(do(ctx, r, ours, o, dir), ours.sameLeader(ctx))
	})
}

// measure runs the chosen parts. One that fails keeps its old table and does not stop the others, unless time is over.
func measure(ctx context.Context, r *report, o options, dir string) error {
	r.begin(partMachine)
	err := errors.Join(machine(ctx, r, o, dir), floors(ctx, r, dir))
	if err != nil {
		return err
	}
	if err := o.put(partMachine, r.take()); err != nil {
		return err
	}
	var failed []error
	for _, p := range chosen(o) {
		if err := measurePart(ctx, r, p, o, filepath.Join(dir, p.name)); err != nil {
			failed = append(failed, fmt.Errorf("part %s: %w", p.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

func measurePart(ctx context.Context, r *report, p part, o options, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	r.begin(p.name)
	if err := stamp(ctx, r, p.name, o); err != nil {
		return err
	}
	if err := p.run(ctx, r, o, dir); err != nil {
		return err
	}
	return errors.Join(r.err, o.put(p.name, r.take()), os.RemoveAll(dir))
}
