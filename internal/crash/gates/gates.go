// Package gates has clients write all the time through two Redis servers with a gate each, moves scopes between them, ends any
// part of a deployment without notice, and says which acknowledged writes are gone. [Processes] is a deployment on loopback.
package gates

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/rig"
	"github.com/scope-registry/scope-registry/internal/process"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// Grace is what a deployment has to give its gates as --grace: it passes before the old copy of a scope is deleted, and the
	// scope may come back.
	Grace = 200 * time.Millisecond
	// settleTime bounds what is awaited after a fault: the end of a session of 10 s, and what follows from it, twice.
	settleTime = 45 * time.Second
	// actor is who does all this, in the registry's log.
	actor = "gates"
)

// Config is how clients work.
type Config struct {
	Writers int // for each scope
	Pause   time.Duration
}

// Rig is the running system. It is for one goroutine. Close it when done, before its deployment.
type Rig struct {
	deployment Deployment
	Tracker    *rig.Tracker
	Work       *Work

	client    *client.Client
	mirror    *client.Mirror
	stop      context.CancelFunc
	following sync.WaitGroup
	moves     int
	quiesced  []time.Duration
	aborted   int
}

// Scopes of a rig: the first is n1's at first, the second n2's.
func Scopes() []string { return []string{"orders:", "carts:"} }

// Open starts a deployment, and returns when clients write to both scopes. Closing the deployment is left to the caller, also
// after an error: until then it tells its logs.
func Open(ctx context.Context, d Deployment, cfg Config) (*Rig, error) {
	if err := d.Up(ctx); err != nil {
		return nil, err
	}
	r := &Rig{deployment: d, Tracker: rig.NewTracker(func(rig.Tenure) {}), client: d.Client()}
	if err := r.open(ctx, cfg); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Rig) open(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if _, err := r.leader(ctx); err != nil {
		return err
	}
	life, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.following.Go(func() { _ = r.Tracker.Follow(life, r.client) })
	if _, err := r.await(ctx, "the sessions of both nodes", func(w rig.World) string {
		for _, id := range NodeIDs() {
			if w.Nodes[id].Session == nil {
				return id + " has none"
			}
		}
		return ""
	}); err != nil {
		return err
	}
	for i, p := range Scopes() {
		if _, err := r.client.Declare(ctx, scope.Prefix(p), api.Declare{Writer: NodeIDs()[i]}, 0); err != nil {
			return err
		}
	}
	mirror, err := r.client.NewMirror(ctx)
	if err != nil {
		return err
	}
	r.mirror = mirror
	r.Work = newWork(mirror, r.deployment.Nodes(), cfg)
	return r.written(ctx)
}

// await waits until what the registry has told is as wanted. The error says too what has ended by itself.
func (r *Rig) await(ctx context.Context, what string, want func(rig.World) string) (rig.World, error) {
	world, err := r.Tracker.Await(ctx, what, want)
	if err != nil {
		err = errors.Join(err, r.deployment.Running(context.WithoutCancel(ctx)))
	}
	return world, err
}

// wait asks again and again until there is no error, and fails with the last one when ctx ends.
func (r *Rig) wait(ctx context.Context, what string, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if process.Sleep(ctx, lookEvery) != nil {
			return errors.Join(fmt.Errorf("waiting for %s: %w: last answer: %w", what, ctx.Err(), err), r.deployment.Running(context.WithoutCancel(ctx)))
		}
	}
}

// leader waits until the servers name a leader, and returns its id.
func (r *Rig) leader(ctx context.Context) (leader string, err error) {
	err = r.wait(ctx, "a leader", func(ctx context.Context) error {
		status, err := r.client.Cluster(ctx, false)
		if err == nil && status.Leader == "" {
			err = errors.New("the servers name no leader")
		}
		leader = status.Leader
		return err
	})
	return leader, err
}

// written waits until each scope takes a write that began now.
func (r *Rig) written(ctx context.Context) error {
	for _, p := range Scopes() {
		before := r.Work.Acknowledged(p)
		if err := r.wait(ctx, "a write of "+p, func(context.Context) error {
			if r.Work.Acknowledged(p) <= before {
				return fmt.Errorf("none was acknowledged; the last said: %w", r.Work.Last(p))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// owner is the node that owns a scope, and other is the other one.
func (r *Rig) owner(p string) (owner, other Node, err error) {
	id, nodes := r.Tracker.World().Scopes[p].Owner, r.deployment.Nodes()
	switch id {
	case nodes[0].ID:
		return nodes[0], nodes[1], nil
	case nodes[1].ID:
		return nodes[1], nodes[0], nil
	}
	return Node{}, Node{}, fmt.Errorf("%q is owned by %q, which is no node of this", p, id)
}

func newRedis(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialTimeout: time.Second, ReadTimeout: 5 * time.Second, DialerRetries: 1})
}

// Close ends all clients. The deployment runs on.
func (r *Rig) Close() {
	if r.Work != nil {
		r.Work.close()
	}
	if r.stop != nil {
		r.stop()
		r.following.Wait()
	}
	if r.mirror != nil {
		r.mirror.Close()
	}
	r.client.Close()
}

// Quiet keeps the Redis client from printing what it thinks of servers that are killed.
func Quiet() { redis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(ctx context.Context, format string, v ...any) {
	slog.DebugContext(ctx, fmt.Sprintf(format, v...))
}
