// Command redis shows real Redis servers as one cluster in which each key has one writer: three servers of the registry, two
// of Redis with a gate each, and clients that write through whoever owns the key, while scopes move back and forth and a
// gate, a Redis and the leader are killed. All of it are processes, or containers with -containers. It ends with counts, and with
// exit code 1 if anything that was acknowledged is not at its owner, or no kill met a move.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/gates"
	"github.com/scope-registry/scope-registry/internal/crash/rig"
)

// limit bounds the whole story: it takes half a minute, and more on a machine that is busy.
const limit = 4 * time.Minute

// options are the flags.
type options struct {
	bin, redis, project string
	containers          bool
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/scope-registry", "program to run")
	flag.StringVar(&o.redis, "redis", "", "Redis server to run (default: redis-server or valkey-server of the PATH)")
	flag.BoolVar(&o.containers, "containers", false, "run the containers of docker-compose.yml and docker-compose.redis.yml, with their images, and no programs")
	flag.StringVar(&o.project, "project", "scope-registry-demo", "compose project of the containers; what an earlier run left of it is removed, and one that runs is refused")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// tale is the state of the story.
type tale struct {
	start       time.Time
	rig         *gates.Rig
	kills, hits int // kills, and those that met a move
}

// mover moves a scope, during which a victim is killed; a [gates.Rig] does.
type mover interface {
	Move(ctx context.Context, p string, step rig.Step, victim gates.Victim) (gates.Result, error)
}

// say prints one line with the seconds since the start.
func (t *tale) say(format string, args ...any) {
	fmt.Printf("%6.2fs  %s\n", time.Since(t.start).Seconds(), fmt.Sprintf(format, args...))
}

// deployment is what the story is told of.
type deployment interface {
	gates.Deployment
	fmt.Stringer
}

func (o options) deployment(ctx context.Context, dir string) (deployment, error) {
	if o.containers {
		return newComposed(ctx, o.project, dir)
	}
	return gates.NewProcesses(o.bin, o.redis, dir)
}

// run tells the story and removes everything it made, however it ends.
func run(o options) (err error) {
	gates.Quiet()
	asked, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(asked, limit)
	defer cancel()
	dir, err := os.MkdirTemp("", "scope-registry-demo-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := o.deployment(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	t := &tale{start: time.Now()}
	if err := t.tell(ctx, d); err != nil {
		if asked.Err() != nil {
			return fmt.Errorf("interrupted: %w", err) // whoever did so needs no logs
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("not at its end after %v: %w", limit, err)
		}
		if logs := d.Logs(asked); logs != "" {
			err = fmt.Errorf("%w\n%s", err, logs)
		}
		return err
	}
	return nil
}

func (t *tale) tell(ctx context.Context, d deployment) (err error) {
	t.say("start three servers, two of Redis that keep what they acknowledge, and a gate before each: %s", d)
	if t.rig, err = gates.Open(ctx, d, gates.Config{Writers: 4, Pause: 5 * time.Millisecond}); err != nil {
		return err
	}
	defer t.rig.Close()
	t.say("clients write strings, lists, hashes, sets, sorted sets and streams of %v through their owners", gates.Scopes())
	if err := t.strike(ctx, t.rig); err != nil {
		return err
	}
	return t.count(ctx)
}

// moreKills bounds how often more is killed when none of the kills has met a move: a machine may be so busy that moves end first.
const moreKills = 10

// strike moves both scopes while each victim is killed, and goes on until a kill has met a move.
func (t *tale) strike(ctx context.Context, m mover) error {
	for _, victim := range []gates.Victim{gates.Nobody, gates.SourceGate, gates.Nobody, gates.TargetRedis, gates.Leader, gates.SourceRedis, gates.TargetGate, gates.Nobody} {
		for _, p := range gates.Scopes() {
			if err := t.move(ctx, m, p, victim); err != nil {
				return err
			}
		}
	}
	for more := 0; t.hits == 0; more++ {
		if more == moreKills {
			return fmt.Errorf("none of %d kills met a move that was under way: this shows nothing; run it again where less else runs", t.kills)
		}
		if err := t.move(ctx, m, gates.Scopes()[0], gates.Victims()[more%len(gates.Victims())]); err != nil {
			return err
		}
	}
	return nil
}

func (t *tale) move(ctx context.Context, m mover, p string, victim gates.Victim) error {
	if victim != gates.Nobody {
		t.say("move %s, and kill -9 the %s", p, victim)
	}
	r, err := m.Move(ctx, p, rig.Begun, victim)
	if err != nil {
		return err
	}
	if victim != gates.Nobody {
		t.kills++
	}
	if r.Hit {
		t.hits++
	}
	t.say("%s", r)
	return nil
}

// count compares what was acknowledged with what is there.
func (t *tale) count(ctx context.Context) error {
	found, err := t.rig.Compare(ctx)
	if err != nil {
		return err
	}
	told := t.rig.Work.Counts()
	done, aborted, quiesced := t.rig.Moves()
	slices.Sort(quiesced)
	fmt.Printf("\n  writes acknowledged   %d\n  found at the owner    %d\n  lost                  %d\n  refused               %d\n  outcome unknown       %d\n  moves done            %d\n  moves aborted         %d\n  kills                 %d, %d of them within a move\n",
		found.Acknowledged, found.Present, found.Acknowledged-found.Present, told.Refused, told.Unknown, done, aborted, t.kills, t.hits)
	if done > 0 {
		fmt.Printf("  quiesce               p50 %d ms, longest %d ms\n", quiesced[done/2].Milliseconds(), quiesced[done-1].Milliseconds())
	}
	if told.Refusal != nil {
		fmt.Printf("  the newest refusal    %v\n", told.Refusal)
	}
	for _, w := range found.Wrong {
		fmt.Printf("  WRONG: %s\n", w)
	}
	if len(found.Wrong) > 0 {
		return fmt.Errorf("%d things are wrong, as the list shows", len(found.Wrong))
	}
	if done == 0 || found.Acknowledged == 0 {
		return errors.New("no scope moved, or nothing was written: this shows nothing")
	}
	return nil
}
