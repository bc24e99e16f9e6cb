package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/scope-registry/scope-registry/internal/gate/differ/program"
)

// connections are how many a program has.
const connections = 4

// perProgram is after how many commands a program ends and the next begins with empty keys.
const perProgram = 3000

// run plays programs on both sides until so many commands were compared, and counts.
type run struct {
	direct, gate *side
	pass         func(name string) bool // of commands that are compared
	queue        func(name string) bool // within MULTI too
	out          io.Writer              // of differences
	commands     int                    // compared
	programs     int
	differences  int
	errors       int            // of the commands, answered with an error
	seen         map[string]int // of each command, how often it was compared
	transactions map[int]*transaction
}

// transaction is what a connection has queued since MULTI.
type transaction struct{ queued []string }

// play runs programs from the seed on, at least until so many commands were compared or so many differences found.
func (r *run) play(ctx context.Context, seed uint64, many, most int) error {
	r.seen = map[string]int{}
	begin, told := time.Now(), 0
	for r.commands < many && r.differences < most {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped after %d commands: %w", r.commands, err)
		}
		if r.commands-told >= 100_000 {
			told = r.commands
			fmt.Fprintf(r.out, "%d commands after %v\n", r.commands, time.Since(begin).Round(time.Second))
		}
		g, err := program.New(seed, connections, r.pass, r.queue)
		if err != nil {
			return err
		}
		if err := r.one(ctx, g, seed); err != nil {
			return fmt.Errorf("program %d: %w", seed, err)
		}
		r.programs++
		seed++
	}
	return nil
}

// one plays one program. After a difference it ends: the two stores may be in two states.
func (r *run) one(ctx context.Context, g *program.Generator, seed uint64) error {
	for _, s := range []*side{r.direct, r.gate} {
		if err := s.connect(ctx, connections); err != nil {
			return err
		}
	}
	defer r.direct.close()
	defer r.gate.close()
	r.transactions = map[int]*transaction{}
	step := program.Prepare()
	for end := r.commands + perProgram; r.commands < end; step = g.Next() {
		direct, gate, err := r.both(ctx, step)
		if err != nil {
			return err
		}
		if !r.judge(seed, step, direct, gate) {
			r.differences++
			return nil
		}
	}
	return nil
}

// both plays a step on both sides at once.
func (r *run) both(ctx context.Context, step program.Step) (direct, gate []answer, err error) {
	done := make(chan error, 1)
	go func() {
		var err error
		direct, err = r.direct.play(ctx, step)
		done <- err
	}()
	gate, err = r.gate.play(ctx, step)
	return direct, gate, errors.Join(<-done, err)
}

// judge compares what came back from one step on both sides.
func (r *run) judge(seed uint64, step program.Step, direct, gate []answer) bool {
	parts := []struct {
		conn     int
		commands []program.Command
	}{{step.Conn, step.Commands}}
	if len(step.Wake) > 0 {
		parts = append(parts, parts[0])
		parts[1].conn, parts[1].commands = step.Other, step.Wake
	}
	if step.Listens {
		parts = append(parts, parts[0])
		parts[2].commands = nil
	}
	if len(step.After) > 0 {
		parts = append(parts, parts[0])
		parts[len(parts)-1].commands = step.After
	}
	for i, part := range parts {
		listens := step.Listens && (i == 0 || i == 2)
		if !r.compare(seed, part.conn, part.commands, listens, direct[i], gate[i]) {
			return false
		}
	}
	return true
}

// compare compares what came back on one connection. On one that listens, replies and messages are not told apart.
func (r *run) compare(seed uint64, conn int, list []program.Command, listens bool, direct, gate answer) bool {
	for i := range min(len(direct.replies), len(gate.replies)) {
		a, b, c := direct.replies[i], gate.replies[i], program.Command{}
		if i < len(list) {
			c = list[i]
		}
		if !same(c.Name, r.follow(conn, c.Name, a), a, b) {
			fmt.Fprintf(r.out, "program %d, connection %d: %.300q\n  directly: %.600q\n  the gate: %.600q\n", seed, conn, c.Args, a, b)
			return false
		}
		r.commands++
		r.seen[c.Name]++
		if a[0] == '-' {
			r.errors++
		}
	}
	if direct.err == nil && gate.err == nil && len(direct.replies) == len(gate.replies) && (listens || len(direct.replies) == len(list)) {
		return true
	}
	at := min(len(direct.replies), len(gate.replies))
	fmt.Fprintf(r.out, "program %d, connection %d: of %.500q came directly %d replies, through the gate %d; %v, %v\n",
		seed, conn, list[min(at, len(list)):], len(direct.replies), len(gate.replies), direct.err, gate.err)
	return false
}

// follow keeps what a connection has queued, and returns it for the end of a transaction.
func (r *run) follow(conn int, name string, reply []byte) []string {
	t := r.transactions[conn]
	switch {
	case name == "MULTI" && string(reply) == "+OK\r\n":
		r.transactions[conn] = &transaction{}
	case t == nil:
	case string(reply) == "+QUEUED\r\n":
		t.queued = append(t.queued, name)
	case name == "EXEC" || name == "DISCARD" || name == "RESET":
		delete(r.transactions, conn)
		return t.queued
	}
	return nil
}
