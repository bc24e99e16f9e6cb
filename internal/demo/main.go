// Command demo shows on three real server processes what the registry is for:
// it declares scopes, routes keys, moves a scope, loses its leader and loses
// nothing else. Every step compares what the servers answer with what they
// must answer, and the first difference ends it with exit code 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/crash"
)

// limit bounds the whole story: it takes a few seconds, and a minute on a machine that is busy.
const limit = 60 * time.Second

func main() {
	bin := flag.String("bin", "bin/scope-registry", "server binary")
	file := flag.String("f", "examples/scopes.toml", "scope file to apply")
	flag.Parse()
	if err := run(*bin, *file); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// run tells the story and removes everything it made, however it ends.
func run(bin, file string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := &tale{start: time.Now(), bin: bin, file: file}
	dir, err := os.MkdirTemp("", "scope-registry-demo-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	issued := certs.Dir(filepath.Join(dir, "certs"))
	if err := t.certify(ctx, issued); err != nil {
		return err
	}
	t.say("start three servers on loopback under TLS, with empty data directories")
	c, err := crash.Open(crash.Config{Bin: bin, Certs: issued})
	if err != nil {
		return err
	}
	defer func() {
		interrupted := ctx.Err()
		closed := c.Close()
		if interrupted != nil {
			closed = nil // they got the same signal, or hang: how they end is no finding
		}
		err = errors.Join(err, closed)
		if err == nil {
			t.say("all as expected; servers stopped, data removed")
		}
	}()
	t.servers = c
	for _, chapter := range []func(context.Context) error{t.boot, t.apply, t.route, t.move, t.finish, t.kill, t.restart} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// tale is the state of the story.
type tale struct {
	start     time.Time
	bin, file string
	servers   *crash.Cluster
	index     uint64 // highest index a change got: every later answer must know it
	moveID    string
	epoch     uint64 // of the moved scope, after its move
	killed    string
}

// say prints one line with the seconds since the start.
func (t *tale) say(format string, args ...any) {
	fmt.Printf("%6.2fs  %s\n", time.Since(t.start).Seconds(), fmt.Sprintf(format, args...))
}

// show prints one line that belongs to the one said before.
func (t *tale) show(format string, args ...any) {
	fmt.Printf("         %s\n", fmt.Sprintf(format, args...))
}
