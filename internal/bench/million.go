package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	// batchScopes is how many scopes one batch declares: the most that one may.
	batchScopes = 10_000
	// milestone is at how many scopes the memory is looked at besides none and all.
	milestone = 100_000
	// shortLog is how many changes a server lacks that is started again.
	shortLog = 100
	// changeEvery is the pause between two changes that are timed while something else goes on.
	changeEvery = 20 * time.Millisecond
	// callTime bounds a call: what follows a large entry waits for it.
	callTime = time.Minute
)

// owners are the nodes that scopes name: one is the writer, the next the fallback.
var owners = []string{"node-1", "node-2", "node-3", "node-4"}

// crowd is the servers with many scopes.
type crowd struct {
	*registry
	c    *client.Client // through any server
	r    *report
	dir  string
	n    int
	size int64 // of the backup, in bytes
}

// million measures what a registry costs with as many scopes as the flag says.
func million(ctx context.Context, r *report, ours *registry, o options, dir string) error {
	m := &crowd{registry: ours, c: client.New(ours.urls, client.WithTimeout(callTime)), r: r, dir: dir, n: o.scopes}
	defer m.c.Close()
	r.header("what", "value")
	for _, step := range []func(context.Context) error{m.declare, m.backup, m.inProcess, m.restartOne, m.restarts, m.restore} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return r.err
}

// declare fills the table by batches, as `apply --chunks` does.
func (m *crowd) declare(ctx context.Context) error {
	if err := m.memory("memory of the servers, no scopes", resident); err != nil {
		return err
	}
	if err := setOwners(ctx, m.c); err != nil {
		return err
	}
	began, milestoned := time.Now(), m.n <= milestone
	for i := 0; i < m.n; {
		to := min(i+batchScopes, m.n)
		if _, err := m.c.Apply(ctx, batchFrom(i, to)); err != nil {
			return fmt.Errorf("declaring %d scopes, after %d: %w", to-i, i, err)
		}
		i = to
		if i >= milestone && !milestoned {
			milestoned = true
			if err := m.memory(fmt.Sprintf("… %d scopes", i), resident); err != nil {
				return err
			}
		}
	}
	m.took(fmt.Sprintf("declaring all, in batches of %d", batchScopes), began)
	return m.memory(fmt.Sprintf("… %d scopes, just declared", m.n), resident)
}

// backup saves one, as `backup save` does, and times changes beside it.
func (m *crowd) backup(ctx context.Context) (err error) {
	f, err := os.Create(m.backupFile())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return m.beside(ctx, "backup save", func() error {
		began := time.Now()
		if _, err := m.c.Backup(ctx, f); err != nil {
			return err
		}
		m.took("backup save", began)
		info, err := f.Stat()
		if err == nil {
			m.size = info.Size()
			m.r.row("size of a backup, of a snapshot", fmt.Sprintf("%.0f MiB, %d B a scope", mib(uint64(m.size)), m.size/int64(m.n)))
		}
		return err
	})
}

func (m *crowd) backupFile() string { return filepath.Join(m.dir, "backup") }

// restartOne stops a follower, lets it miss some changes and starts it.
func (m *crowd) restartOne(ctx context.Context) error {
	i, err := m.findLeader(ctx)
	if err != nil {
		return err
	}
	i = (i + 1) % servers
	if err := m.beside(ctx, "the stop of a follower", func() error {
		began := time.Now()
		defer m.took("stop of a follower, with a snapshot on the way out", began)
		return m.group[i].Stop()
	}); err != nil {
		return err
	}
	for k := range shortLog {
		if _, err := m.c.SetNode(ctx, api.Node{ID: owners[0], Addr: fmt.Sprintf("127.0.0.1:%d", 1+k)}); err != nil {
			return err
		}
	}
	return m.beside(ctx, "the start of a follower", func() error {
		began := time.Now()
		if err := m.group[i].Start(); err != nil {
			return err
		}
		if err := m.group[i:i+1].wait(ctx, "a server that was started", func(ctx context.Context) error { return healthy(ctx, m.urls[i]) }); err != nil {
			return err
		}
		m.took(fmt.Sprintf("**start of that server until it is ready**, %d changes later (target: 10 s)", shortLog), began)
		return nil
	})
}

// restartAll stops all servers and starts them.
func (m *crowd) restarts(ctx context.Context) error {
	began := time.Now()
	if err := m.stop(); err != nil {
		return err
	}
	m.took("stop of all, one after the other", began)
	began = time.Now()
	if err := m.startAll(ctx); err != nil {
		return err
	}
	m.took("start of all at once until all are ready", began)
	return m.memory(fmt.Sprintf("… %d scopes, after a start", m.n), resident)
}

// restore puts the backup back and times changes beside it.
func (m *crowd) restore(ctx context.Context) (err error) {
	f, err := os.Open(m.backupFile())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	before, err := m.c.Cluster(ctx, false)
	if err != nil {
		return err
	}
	for _, p := range m.group {
		if err := forgetPeak(p); err != nil {
			return err
		}
	}
	if err := m.beside(ctx, "backup restore", func() error {
		began := time.Now()
		defer m.took("backup restore", began)
		_, err := m.c.Restore(ctx, f, api.RestoreOptions{Incarnation: before.Incarnation + 1})
		return err
	}); err != nil {
		return err
	}
	after, err := m.c.Cluster(ctx, false)
	if err != nil {
		return err
	}
	m.r.row("leader and term before the restore, and after", fmt.Sprintf("%s in %d, %s in %d", before.Leader, term(before), after.Leader, term(after)))
	if err := m.memory("most memory of the servers during the restore", peak); err != nil {
		return err
	}
	if err := m.memory("… after it", resident); err != nil {
		return err
	}
	return m.pauses(ctx)
}

// longestPause is how the servers' metrics name the longest pause of a collection, in seconds.
const longestPause = `go_gc_duration_seconds{quantile="1"} `

// pauses prints for how long the collector stopped each server since its start, at most.
func (m *crowd) pauses(ctx context.Context) error {
	text := ""
	for _, u := range m.urls {
		metrics, err := get(ctx, u+"/metrics")
		if err != nil {
			return err
		}
		_, rest, found := strings.Cut(metrics, longestPause)
		value, _, _ := strings.Cut(rest, "\n")
		seconds, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return fmt.Errorf("the metrics of %s have no %s (%v): %w", u, longestPause, found, err)
		}
		text += in(time.Duration(seconds*float64(time.Second)), time.Millisecond) + " "
	}
	m.r.row("longest pause of a collection since the start", text+"ms")
	return nil
}

// get is the body of an answer.
func get(ctx context.Context, url string) (string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(answer.Body)
	return string(body), errors.Join(err, answer.Body.Close())
}

// term is that of the leader.
func term(c api.Cluster) uint64 {
	for _, s := range c.Members {
		if s.ID == c.Leader {
			return s.Term
		}
	}
	return 0
}

// beside runs f, and one change after the other as long as it runs.
func (m *crowd) beside(ctx context.Context, what string, f func() error) error {
	ctx, end := context.WithCancel(ctx)
	var s sample
	failed := 0
	var changes sync.WaitGroup
	changes.Go(func() {
		for k := 0; ctx.Err() == nil; k++ {
			began := time.Now()
			_, err := m.c.SetNode(ctx, api.Node{ID: owners[1], Addr: fmt.Sprintf("127.0.0.1:%d", 1+k%60_000)})
			switch {
			case err == nil:
				s = append(s, time.Since(began))
			case ctx.Err() == nil:
				failed++
			}
			_ = process.Sleep(ctx, changeEvery)
		}
	})
	err := f()
	end()
	changes.Wait()
	m.r.row("… a change meanwhile ("+what+")", fmt.Sprintf("%d: p50 %s ms, max %s ms; %d failed", len(s), in(s.median(), time.Millisecond), in(s.at(1), time.Millisecond), failed))
	return err
}

func (m *crowd) took(what string, began time.Time) {
	m.r.row(what, in(time.Since(began), time.Second)+" s")
}

// memory prints that of each server.
func (m *crowd) memory(what string, of func(*process.Program) (uint64, error)) error {
	text := ""
	for _, p := range m.group {
		n, err := of(p)
		if err != nil {
			return err
		}
		text += fmt.Sprintf("%.0f ", mib(n))
	}
	m.r.row(what, text+"MiB")
	return nil
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }
