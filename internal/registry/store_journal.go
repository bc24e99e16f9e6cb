package registry

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// journaled is the log of sealed entries: the newest are in the journal and in memory, all others in bolt. What is appended is
// durable with one sync of the journal, where a commit of bolt takes two and writes several pages; bolt gets many entries in one
// commit, each time that half of the journal is full. One change of the log is made at a time.
type journaled struct {
	bolt    *raftboltdb.BoltStore
	journal *journal
	next    uint64        // index after the last entry in the journal, 0 if it is empty
	moved   chan struct{} // closed when the last move to bolt in the background has ended
	wrong   error         // how it failed
	failed  func(error)   // told of that

	mu   sync.RWMutex // guards held
	held []*raft.Log  // not in bolt yet, their indexes without a gap
}

func newJournaled(bolt *raftboltdb.BoltStore, j *journal, failed func(error)) *journaled {
	l := &journaled{bolt: bolt, journal: j, moved: make(chan struct{}), failed: failed}
	close(l.moved)
	return l
}

// get reads an entry with its seal. What it refers to is not to be changed.
func (l *journaled) get(index uint64, out *raft.Log) error {
	l.mu.RLock()
	if n := len(l.held); n > 0 && index >= l.held[0].Index && index <= l.held[n-1].Index {
		*out = *l.held[index-l.held[0].Index]
		l.mu.RUnlock()
		return nil
	}
	l.mu.RUnlock()
	return l.bolt.GetLog(index, out) // what was moved is there before it is held no more
}

func (l *journaled) firstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	first, err := l.bolt.FirstIndex()
	if err == nil && first == 0 && len(l.held) > 0 {
		first = l.held[0].Index
	}
	return first, err
}

func (l *journaled) lastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if n := len(l.held); n > 0 {
		return l.held[n-1].Index, nil
	}
	return l.bolt.LastIndex()
}

// append stores entries, of which a crash leaves all or none. Those that the journal is too small for go to bolt by themselves,
// as do those with a gap between them. began says that they are the first in the journal, or in one of its halves.
func (l *journaled) append(logs []*raft.Log) (began bool, err error) {
	size := frameSize(bodySize(logs))
	fits := size <= l.journal.size && inRow(logs)
	if !fits || (l.next > 0 && l.next != logs[0].Index) {
		if err := l.flush(); err != nil {
			return false, err
		}
	}
	if !fits {
		return false, l.bolt.StoreLogs(logs)
	}
	if !l.journal.room(size) {
		if err := l.turn(); err != nil {
			return false, err
		}
	}
	began = l.journal.at == 0
	if err := l.journal.append(logs); err != nil {
		return false, err
	}
	l.next = logs[len(logs)-1].Index + 1
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, logs...)
	return began, nil
}

func inRow(logs []*raft.Log) bool {
	for i, l := range logs {
		if l.Index != logs[0].Index+uint64(i) {
			return false
		}
	}
	return true
}

// turn begins the other half of the journal, once what that held is in bolt, and moves what this one holds there meanwhile.
func (l *journaled) turn() error {
	if <-l.moved; l.wrong != nil {
		return l.wrong
	}
	logs, moved := l.held, make(chan struct{})
	l.moved = moved
	go func() {
		defer close(moved)
		if l.wrong = l.move(logs); l.wrong != nil {
			l.failed(l.wrong)
		}
	}()
	l.journal.turn()
	return nil
}

// move stores in bolt what is held first.
func (l *journaled) move(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	if err := l.bolt.StoreLogs(logs); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = slices.Clone(l.held[len(logs):])
	return nil
}

// flush moves all to bolt, and then makes the journal forget it. What bolt had before is durable: each of its commits is, and an open of the
// file makes one.
func (l *journaled) flush() error {
	if <-l.moved; l.wrong != nil {
		return l.wrong
	}
	if err := l.move(l.held); err != nil {
		return err
	}
	l.next = 0
	return l.journal.reset()
}

// forget makes sure that no entry up to an index is in the journal, which would bring it back after a crash when it has been
// removed from bolt.
func (l *journaled) forget(upTo uint64) error {
	if !l.journal.holds(upTo) {
		return nil
	}
	return l.flush()
}

// close closes the files. What was not flushed stays in the journal.
func (l *journaled) close() error {
	<-l.moved
	return errors.Join(l.bolt.Close(), l.journal.file.Close())
}

// recoverJournal takes over the entries found in the journal, and returns the indexes of those that bolt, with entries from first
// to last, does not have. Of the others bolt has the very same, unless it had them once and they were removed there: the journal
// may still show what a half held before it began anew.
func (s *store) recoverJournal(found []*raft.Log, first, last uint64) (indexes []uint64, err error) {
	for ; len(found) > 0 && found[0].Index <= last; found = found[1:] {
		index := found[0].Index
		if index < first {
			continue
		}
		has, err := s.readLog(index, new(raft.Log))
		if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
			return nil, err // bolt's, which says so
		}
		if seal, wrong := openEntrySeal(found[0].Extensions); err != nil || wrong != "" || seal != has {
			return nil, s.corruptLog(index, 0, 0, fmt.Sprintf("the entry found there is not the one in %s", journalFile))
		}
	}
	if len(found) > 0 && !s.existed {
		return nil, s.corruptFile("all of it", fmt.Sprintf("it is gone or empty, and %s has entries from %d on", journalFile, found[0].Index))
	}
	for i, l := range found {
		if i > 0 && l.Index != found[i-1].Index+1 {
			return nil, s.corruptLog(l.Index, 0, 0, fmt.Sprintf("what is before it in %s is entry %d", journalFile, found[i-1].Index))
		}
		indexes = append(indexes, l.Index)
	}
	s.log.held = found
	return indexes, nil
}

// moveFailed is told of a move in the background that failed.
func (s *store) moveFailed(err error) { _ = s.check("moving entries from the journal", err) }
