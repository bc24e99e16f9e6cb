package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// holder is the value of the lock key: "gate NODE IDENTITY INSTANCE".
type holder struct{ node, identity, instance string }

const lockMark = "gate"

func (h holder) String() string {
	return strings.Join([]string{lockMark, h.node, h.identity, h.instance}, " ")
}

// parseHolder reads the value; ok is false where no gate wrote it.
func parseHolder(text string) (h holder, ok bool) {
	f := strings.Fields(text)
	if len(f) != 4 || f[0] != lockMark {
		return h, false
	}
	return holder{f[1], f[2], f[3]}, true
}

// HeldError says that another gate has the store.
type HeldError struct {
	Addr     string // of the store
	Node     string // "" if the lock key holds something that no gate wrote
	Identity string // of that node's data dir
	Same     bool   // it is this node, with another data dir or another process of this one's
}

func (e *HeldError) Error() string {
	const free = "if that gate is off for good, and only then, delete the key " + LockKey + " in the store"
	switch {
	case e.Node == "":
		return fmt.Sprintf("the key %s of the store at %s holds what no gate wrote; see what it is, and delete it", LockKey, e.Addr)
	case e.Same:
		return fmt.Sprintf("the store at %s is held by another gate of this node %q (identity of its data dir: %s); a node has one gate, with one data dir: end that one, or give this one its --data-dir; %s",
			e.Addr, e.Node, e.Identity, free)
	default:
		return fmt.Sprintf("the store at %s is held by the gate of node %q; a store has one gate: give this one a store of its own with --upstream; %s", e.Addr, e.Node, free)
	}
}

func (s *Store) held(text string) *HeldError {
	h, _ := parseHolder(text)
	return &HeldError{Addr: s.cfg.Addr, Node: h.node, Identity: h.identity, Same: h.node == s.cfg.Node}
}

// takeLock takes the lock: it is free, or was left by an earlier process with this data dir, which the system's lock of that
// directory says is gone.
func (s *Store) takeLock(ctx context.Context, l *link) error {
	for {
		replies, err := l.askAll(ctx, []string{"WATCH", LockKey}, []string{"GET", LockKey})
		if err != nil {
			return err
		}
		for i, args := range [][]string{{"WATCH"}, {"GET"}} {
			if err := refused(replies[i], args); err != nil {
				return err
			}
		}
		free := replies[1].Null
		if got := replies[1]; !free {
			if h, ok := parseHolder(got.Text); !ok || h.node != s.cfg.Node || h.identity != s.cfg.Identity {
				return s.held(got.Text)
			}
		}
		replies, err = l.askAll(ctx, []string{"MULTI"}, []string{"SET", LockKey, s.own}, []string{"EXEC"})
		if err != nil {
			return err
		}
		for i, args := range [][]string{{"MULTI"}, {"SET"}, {"EXEC"}} {
			if err := refused(replies[i], args); err != nil {
				return err
			}
		}
		if !replies[2].Null { // else somebody changed it meanwhile
			s.fresh = s.fresh || free
			return nil
		}
	}
}

// Undo is Close for a start that failed: a lock that was free before is given back, as no data dir may exist whose identity it
// names.
func (s *Store) Undo(ctx context.Context) error {
	if !s.fresh {
		return s.Close()
	}
	err := s.with(ctx, func(l *link) error {
		if err := s.checkLock(ctx, l); err != nil {
			return err
		}
		_, err := l.ask(ctx, "DEL", LockKey) // nobody takes a lock that is there
		return err
	})
	return errors.Join(err, s.Close())
}

// checkLock sees that the lock is still this gate's. A lock that is gone is taken again: the store lost its data, and
// whoever takes it first has it. A lock that is another's closes the gate.
func (s *Store) checkLock(ctx context.Context, l *link) error {
	got, err := l.ask(ctx, "GET", LockKey)
	if err != nil {
		return err
	}
	if got.Null {
		set, err := l.ask(ctx, "SET", LockKey, s.own, "NX")
		if err != nil {
			return err
		}
		if !set.Null {
			s.retaken.Add(1)
			s.log.Warn("the store came back without the lock of this gate, which took it again: the store was started without its data, or somebody flushed it", "addr", s.cfg.Addr)
		}
		if got, err = l.ask(ctx, "GET", LockKey); err != nil {
			return err
		}
	}
	if got.Text == s.own {
		return nil
	}
	held := s.held(got.Text)
	s.lose(held)
	return held
}
