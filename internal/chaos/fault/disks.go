package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/target"
	"github.com/scope-registry/scope-registry/internal/load"
)

// errNoSnapshot is that a server has not had enough entries yet for a snapshot, one on its way out included; and
// snapshotTries is how often it is looked for, with the time of a fault between.
var errNoSnapshot = errors.New("there is no snapshot yet")

const snapshotTries = 20

// sayTime bounds what a server takes to say what is wrong with its data.
const sayTime = 20 * time.Second

// What a server says of its data directory when it starts, see docs/operations.md.
const (
	saysWiped   = "another data directory"
	saysCorrupt = "is corrupt"
	saysAside   = "is damaged and is set aside"
)

// onDisks are the faults of a server's data directory while it does not run.
func onDisks() []Fault {
	disked := func(t target.Target) bool {
		_, disk := t.(target.Disked)
		_, log := t.(target.Logged)
		return disk && log
	}
	return []Fault{
		{Name: history.Wipe, possible: disked, do: func(ctx context.Context, s *strike) error {
			return s.damaged(ctx, saysWiped, func(dir string) (func() error, error) {
				aside := dir + ".aside"
				if err := errors.Join(os.RemoveAll(aside), os.Rename(dir, aside), os.MkdirAll(dir, 0o700)); err != nil {
					return nil, err
				}
				return func() error { return errors.Join(os.RemoveAll(dir), os.Rename(aside, dir)) }, nil
			})
		}},
		{Name: history.FlipLog, possible: disked, do: func(ctx context.Context, s *strike) error {
			return s.damaged(ctx, saysCorrupt, s.flipLog)
		}},
		{Name: history.FlipSnapshot, possible: disked, do: func(ctx context.Context, s *strike) error {
			return s.damaged(ctx, saysAside, s.flipSnapshot) // or it does not start, where its log does not reach an older one
		}},
		{Name: history.SlowDisk, possible: failing, do: func(ctx context.Context, s *strike) error {
			return s.badDisk(ctx, load.Slow, fmt.Sprintf("%dms", 50+s.rng.IntN(50)), false)
		}},
		{Name: history.FailingDisk, possible: failing, do: func(ctx context.Context, s *strike) error { return s.badDisk(ctx, load.Fails, "", true) }},
		{Name: history.FullDisk, possible: failing, do: func(ctx context.Context, s *strike) error { return s.fullDisks(ctx) }},
	}
}

func failing(t target.Target) bool {
	_, ok := t.(target.Failing)
	return ok
}

// badDisk has the leader's disk do something. If the leader ends by that, it starts again on a disk that works.
func (s *strike) badDisk(ctx context.Context, what load.Disk, say string, fatal bool) error {
	id, err := s.theLeader()
	if err != nil {
		return err
	}
	s.begins("%s %s", id, say)
	disks, _ := s.Target.(target.Failing)
	undo, err := disks.FailPoint(id, what, say)
	if err != nil {
		return err
	}
	if fatal {
		err = s.ends(ctx, id)
	}
	if err == nil {
		err = s.active(ctx)
	}
	if err == nil && fatal {
		err = s.succeeded(ctx)
	}
	if err == nil {
		err = s.lasts(ctx)
	}
	s.heals()
	err = errors.Join(err, undo())
	if !fatal {
		return err
	}
	if ended, ok := s.Target.(interface{ Ended(string) error }); ok {
		err = errors.Join(err, ended.Ended(id))
	}
	return errors.Join(err, s.Target.Start(ctx, id))
}

// damaged stops a server, damages its data, starts it, waits until it says so, and
// has it start again on the data as it was when it stopped.
func (s *strike) damaged(ctx context.Context, says string, change func(dir string) (undo func() error, err error)) error {
	id, err := s.aFollower()
	if err != nil {
		return err
	}
	s.begins("%s", id)
	undo, err := s.damage(ctx, id, change)
	for tries := 1; errors.Is(err, errNoSnapshot) && tries < snapshotTries; tries++ {
		if err := errors.Join(s.WaitReady(ctx), pause(ctx, s.Hold)); err != nil {
			return err
		}
		s.begins("%s again, as it had none yet", id)
		undo, err = s.damage(ctx, id, change)
	}
	if err != nil {
		return err
	}
	err = s.Target.Start(ctx, id)
	if err == nil {
		err = s.hears(ctx, id, says)
	}
	if err == nil && !strings.Contains(s.rec.Said, saysAside) && says != saysWiped {
		err = s.ends(ctx, id)
	}
	if err == nil {
		s.rec.Active = s.Now()
		s.rec.Silent = s.readyNow(ctx, id) != nil
		err = errors.Join(s.inspect(ctx, s.rec.During, id), s.lasts(ctx))
	}
	s.heals()
	if m, looked := s.Target.Inspect(ctx, id); looked == nil && m.State == "running" {
		err = errors.Join(err, s.Target.Kill(ctx, id))
	} else if ended, ok := s.Target.(interface{ Ended(string) error }); ok && looked == nil {
		err = errors.Join(err, ended.Ended(id))
	}
	disk, _ := s.Target.(target.Disked)
	return errors.Join(err, disk.Disk(ctx, id, func(string) error { return undo() }), s.Target.Start(ctx, id))
}

// damage stops a server and damages its data. It runs again if that was not possible.
func (s *strike) damage(ctx context.Context, id string, change func(dir string) (undo func() error, err error)) (undo func() error, err error) {
	if err := s.Target.Stop(ctx, id); err != nil {
		return nil, err
	}
	disk, _ := s.Target.(target.Disked)
	if err := disk.Disk(ctx, id, func(dir string) (err error) {
		undo, err = change(dir)
		return err
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("the data of %s could not be damaged: %w", id, err), s.Target.Start(ctx, id))
	}
	return undo, nil
}

// ends waits until a server has ended by itself. Unlike a server, the keeper of containers may take seconds for an answer.
func (s *strike) ends(ctx context.Context, id string) error {
	return s.wait(ctx, sayTime, func(context.Context) error {
		m, err := s.Target.Inspect(ctx, id)
		if err == nil && m.State != "exited" {
			err = fmt.Errorf("%s is %s", id, m.State)
		}
		return err
	})
}

// fullDisks has the disks of all servers be nearly full: then whoever leads refuses changes.
func (s *strike) fullDisks(ctx context.Context) (err error) {
	var undos []func() error
	defer func() {
		for _, undo := range slices.Backward(undos) {
			err = errors.Join(err, undo())
		}
	}()
	s.rec.Servers = s.Target.Servers()
	s.begins("%v", s.rec.Servers)
	disks, _ := s.Target.(target.Failing)
	for _, id := range s.rec.Servers {
		undo, err := disks.FailPoint(id, load.Full, "")
		if err != nil {
			return err
		}
		undos = append(undos, undo)
	}
	if err := s.active(ctx); err != nil {
		return err
	}
	err = s.lasts(ctx)
	s.heals()
	return err
}

// hears waits until a server has logged a line with a text.
func (s *strike) hears(ctx context.Context, id, text string) error {
	logged, _ := s.Target.(target.Logged)
	return s.wait(ctx, sayTime, func(context.Context) error {
		all, err := logged.Log(ctx, id)
		if err != nil {
			return err
		}
		lines := strings.Split(all, "\n")
		for _, line := range slices.Backward(lines) {
			if strings.Contains(line, text) || text == saysAside && strings.Contains(line, saysCorrupt) {
				s.rec.Said = fmt.Sprintf("%.300s", line)
				return nil
			}
		}
		return fmt.Errorf("%s has not said that its data %q; its last line is %.200q", id, text, lines[max(0, len(lines)-2)])
	})
}

func (e *Env) readyNow(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return e.Servers[id].Ready(ctx)
}

// flip changes one bit of a file at a place, and returns how to put it back.
func flip(file string, at int) (undo func() error, err error) {
	was, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if at >= len(was) {
		return nil, fmt.Errorf("%s has %d bytes, none at %d", file, len(was), at)
	}
	is := bytes.Clone(was)
	is[at] ^= 1
	return func() error { return os.WriteFile(file, was, 0o600) }, os.WriteFile(file, is, 0o600)
}

// flipLog flips a bit of each log entry of the clients, wherever their prefix stands, in both files of the log.
func (s *strike) flipLog(dir string) (func() error, error) {
	var undo []func() error
	all := 0
	for _, name := range []string{"raft.db", "raft.journal"} {
		file := filepath.Join(dir, name)
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		is, places := flipEach(data, "chaos:")
		if err := os.WriteFile(file, is, 0o600); err != nil {
			return nil, err
		}
		all += places
		undo = append(undo, func() error { return os.WriteFile(file, data, 0o600) })
	}
	if all == 0 {
		return nil, fmt.Errorf("the log in %s holds no entry of the clients", dir)
	}
	s.Say("%s: a bit of %d places of the log", s.rec.Name, all)
	return func() error { return errors.Join(undo[0](), undo[1]()) }, nil
}

// flipEach flips a bit wherever a text stands. Pages and frames that are no longer in use keep what they held: all places
// are changed, so that one is in use.
func flipEach(data []byte, text string) (is []byte, places int) {
	is = bytes.Clone(data)
	for at := 0; ; {
		next := bytes.Index(is[at:], []byte(text))
		if next < 0 {
			return is, places
		}
		at += next
		is[at+1] ^= 1
		places++
	}
}

// flipSnapshot flips a bit in the middle of the newest snapshot.
func (s *strike) flipSnapshot(dir string) (func() error, error) {
	states, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
	if err != nil || len(states) == 0 {
		return nil, errors.Join(errNoSnapshot, err)
	}
	var newest string
	var at time.Time
	for _, name := range states {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if info.ModTime().After(at) {
			newest, at = name, info.ModTime()
		}
	}
	info, err := os.Stat(newest)
	if err != nil {
		return nil, err
	}
	undo, err := flip(newest, int(info.Size()/2))
	return func() error {
		if _, err := os.Stat(newest); errors.Is(err, os.ErrNotExist) {
			return nil // the server went on from an older one, and has set this one aside
		}
		return undo()
	}, err
}
