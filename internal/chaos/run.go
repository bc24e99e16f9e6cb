package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/fault"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/report"
	"github.com/scope-registry/scope-registry/internal/chaos/target"
	"github.com/scope-registry/scope-registry/internal/chaos/timeline"
	"github.com/scope-registry/scope-registry/internal/chaos/workload"
	"github.com/scope-registry/scope-registry/internal/direct"
	"github.com/scope-registry/scope-registry/internal/load"
)

const (
	// downTime bounds taking the servers down, which an interrupt must not keep from happening.
	downTime = 2 * time.Minute
	// healTime bounds how long servers that are ready again may refuse changes: above the 5 s after which a leader asks the
	// others for their space again, on a busy machine too.
	healTime = 20 * time.Second
)

var (
	// errFailed is the end of a run whose report says why.
	errFailed      = errors.New("the run failed")
	errInterrupted = errors.New("interrupted")
	// errVoid is also the end of a run that was made as planned and shows nothing.
	errVoid = errors.New("it shows nothing")
)

// run does a whole run, and takes the servers down however it ends.
func run(ctx context.Context, o options, out io.Writer) ([]check.Result, error) {
	dir, err := outDir(o.out)
	if err != nil {
		return nil, err
	}
	cluster, err := made(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	plan, err := fault.Plan(o.scenario, cluster, o.seed)
	if err != nil {
		return nil, err
	}
	log, err := history.Create(filepath.Join(dir, "history.jsonl"),
		history.Setup{Scenario: o.scenario, Seed: o.seed, Duration: o.duration, Servers: cluster.Servers(), Nodes: cluster.Nodes(), Target: cluster.String(),
			Command: o.command, Program: program()})
	if err != nil {
		return nil, err
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(out, "%7.1fs  %s\n", log.Now().Seconds(), fmt.Sprintf(format, args...))
	}
	say("%v, seed %d, result in %s", cluster, o.seed, dir)
	say("%v", plan)
	ended := drive(ctx, o, cluster, plan, log, say)
	if ctx.Err() != nil {
		ended = errInterrupted
	}
	if ended != nil {
		say("ended early: %v", ended)
	}
	down := takeDown(ctx, o, cluster, dir, say)
	if err := errors.Join(down, log.Close()); err != nil {
		return nil, err
	}
	seen := log.Run()
	if len(seen.Ops) == 0 {
		return nil, ended
	}
	say("check what was answered")
	return conclude(seen, o, dir, ended, out)
}

// runs makes a run, and another one if it turns out void, as often as was asked for.
func runs(ctx context.Context, o options, out io.Writer) error {
	for left, dir := o.again, o.out; ; left-- {
		_, err := run(ctx, o, out)
		if left == 0 || o.keep || !errors.Is(err, errVoid) { // another one would take over what is kept
			return err
		}
		o.seed++
		if dir != "" {
			o.out = fmt.Sprintf("%s-seed-%d", dir, o.seed)
		}
		fmt.Fprintf(out, "\nthe run was void: another one, with seed %d\n", o.seed)
	}
}

// made is what the run is made against. Nothing runs yet.
func made(ctx context.Context, o options, dir string) (target.Target, error) {
	work := filepath.Join(dir, "work") // data, and logs of processes
	if !o.local {
		files := []string{o.compose}
		if o.nodes > 0 {
			files = append(files, o.stores)
		}
		return target.NewDocker(ctx, files, o.project, o.nodes, work)
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	programs, err := load.Build(ctx, o.root, work, slices.Concat(load.FewEntries, load.FailPoints, o.planted.registry)...)
	if err == nil && len(o.planted.store) > 0 {
		programs, err = programs.WithStore(ctx, o.root, work, o.planted.store...)
	}
	if err != nil {
		return nil, err
	}
	return target.NewLocal(work, programs, o.nodes, o.timing), nil
}

// outDir is the directory of the result.
func outDir(name string) (string, error) {
	if name == "" {
		return os.MkdirTemp("", "scope-registry-chaos-*")
	}
	return name, os.MkdirAll(name, 0o700)
}

// drive starts the servers and does the faults while clients work.
func drive(ctx context.Context, o options, cluster target.Target, plan *fault.Scenario, log *history.Log, say func(string, ...any)) error {
	say("start the servers")
	if err := cluster.Up(ctx); err != nil {
		return err
	}
	var servers []*direct.Server
	env := fault.Env{Target: cluster, Servers: map[string]*direct.Server{}, Now: log.Now, Say: say,
		Hold: o.hold, Heal: healTime, Seed: o.seed}
	files, config, err := credentials(cluster)
	if err != nil {
		return err
	}
	for _, id := range cluster.Servers() {
		s := direct.New(id, cluster.URL(id), config)
		servers = append(servers, s)
		env.Servers[id] = s
	}
	defer func() {
		for _, s := range servers {
			s.Close()
		}
	}()
	if err := env.WaitReady(ctx); err != nil {
		return err
	}
	work, err := workload.Begin(ctx, workload.Config{Servers: servers, TLS: files, Log: log, Seed: o.seed})
	if err != nil {
		return err
	}
	defer work.Close()
	data, err := onNodes(ctx, o, cluster, files, log)
	if err != nil {
		return err
	}
	defer data.close()
	if data.Data != nil {
		env.Owner = data.Owner
	}
	say("clients work on all servers")
	broken := faults(ctx, o, &env, plan, log)
	work.Stop()
	data.stop()
	if broken != nil {
		return broken
	}
	say("clients have ended; end what they left unfinished, and wait until all states are equal")
	return errors.Join(data.finish(ctx), work.Finish(ctx))
}

// credentials are what requests to the servers are made with, as files and as what is in them; without TLS none.
func credentials(cluster target.Target) (client.TLS, *tls.Config, error) {
	secured, ok := cluster.(target.Secured)
	if !ok {
		return client.TLS{}, nil, nil
	}
	files := secured.Credentials()
	source, err := certs.OpenClient(files, nil)
	if err != nil {
		return client.TLS{}, nil, err
	}
	return client.TLS{CA: files.CA, Cert: files.Cert, Key: files.Key}, source.Client(), nil
}

// onData is the work on the data nodes; nil where there are none.
type onData struct{ *workload.Data }

func onNodes(ctx context.Context, o options, cluster target.Target, files client.TLS, log *history.Log) (onData, error) {
	cfg := workload.DataConfig{TLS: files, Nodes: cluster.Nodes(), Addrs: map[string]string{}, Log: log, Seed: o.seed}
	if len(cfg.Nodes) == 0 {
		return onData{}, nil
	}
	for _, id := range cfg.Nodes {
		cfg.Addrs[id] = strings.TrimPrefix(cluster.URL(id), "http://")
	}
	for _, id := range cluster.Servers() {
		cfg.Servers = append(cfg.Servers, cluster.URL(id))
	}
	data, err := workload.BeginData(ctx, cfg)
	return onData{data}, err
}

func (d onData) stop() {
	if d.Data != nil {
		d.Stop()
	}
}

func (d onData) finish(ctx context.Context) error {
	if d.Data == nil {
		return nil
	}
	return d.Finish(ctx)
}

func (d onData) close() {
	if d.Data != nil {
		d.Close()
	}
}

// faults does the faults of the plan, each round after some calm, until the time is over and each was done once.
func faults(ctx context.Context, o options, env *fault.Env, plan *fault.Scenario, log *history.Log) error {
	calm := o.hold * 2 / 3
	begun := log.Now()
	for n := 0; n < plan.Len() || log.Now()-begun < o.duration-o.hold-2*calm; n++ {
		if err := pause(ctx, calm); err != nil {
			return err
		}
		if err := round(ctx, env, plan.Next(), log); err != nil {
			return err
		}
		env.Say("all servers are ready and acknowledge changes")
	}
	return pause(ctx, max(calm, o.duration-(log.Now()-begun)))
}

// round does some faults at once.
func round(ctx context.Context, env *fault.Env, all []fault.Fault, log *history.Log) error {
	recs := make([]history.Fault, len(all))
	var doing sync.WaitGroup
	for i, f := range all {
		doing.Go(func() { recs[i] = env.Run(ctx, f, len(all) > 1) })
	}
	doing.Wait()
	var errs []error
	for _, rec := range blamed(recs) {
		log.Fault(rec)
		if rec.Error != "" {
			errs = append(errs, fmt.Errorf("fault %s: %s", rec.Name, rec.Error))
		}
	}
	return errors.Join(errs...)
}

// blamed are the faults of a round, in the order of their ends. When one of them could not be undone, it is what keeps servers from
// being ready, and no other one is said not to have healed.
func blamed(recs []history.Fault) []history.Fault {
	slices.SortStableFunc(recs, func(a, b history.Fault) int { return cmp.Compare(a.End, b.End) })
	if slices.ContainsFunc(recs, func(f history.Fault) bool { return f.Error != "" && !f.Unhealed }) {
		for i := range recs {
			recs[i].Unhealed = false
		}
	}
	return recs
}

// takeDown keeps the logs and removes the servers, also after an interrupt.
func takeDown(ctx context.Context, o options, cluster target.Target, dir string, say func(string, ...any)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTime)
	defer cancel()
	err := cluster.Logs(ctx, dir)
	if o.keep {
		for _, id := range cluster.Servers() {
			say("%s is left running at %s", id, cluster.URL(id))
		}
		return err
	}
	say("take the servers down")
	return errors.Join(err, cluster.Down(ctx))
}

// conclude checks a history, and shows and keeps the report.
func conclude(run *history.Run, o options, dir string, ended error, out io.Writer) ([]check.Result, error) {
	checks := check.All(run, o.search)
	r := report.Of(run, checks, ended)
	fmt.Fprintln(out)
	if err := r.Text(out); err != nil {
		return checks, err
	}
	if dir != "" {
		if err := keep(r, run, dir); err != nil {
			return checks, err
		}
		fmt.Fprintf(out, "history, result and logs: %s\nto be looked at: %s\n", dir, filepath.Join(dir, pageName))
	}
	switch {
	case r.Verdict == report.Void && ended == nil:
		return checks, fmt.Errorf("%w: %s, %w", errFailed, r.Verdict, errVoid)
	case r.Verdict != report.Pass:
		return checks, fmt.Errorf("%w: %s", errFailed, r.Verdict)
	}
	return checks, nil
}

// pageName is the file of the report that a browser shows.
const pageName = "report.html"

// keep writes the report beside the history.
func keep(r report.Report, run *history.Run, dir string) error {
	for name, write := range map[string]func(io.Writer) error{
		"result.json": r.JSON,
		"summary.txt": r.Text,
		pageName:      func(w io.Writer) error { return r.Page(w, timeline.Of(run)) },
	} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// recheck checks a history that an earlier run wrote. With a directory it keeps the report there.
func recheck(o options, out io.Writer) error {
	f, err := os.Open(o.recheck)
	if err != nil {
		return err
	}
	run, err := history.Decode(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	dir := ""
	if o.out != "" {
		if dir, err = outDir(o.out); err != nil {
			return err
		}
	}
	_, err = conclude(run, o, dir, nil, out)
	return err
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
