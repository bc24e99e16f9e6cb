package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/inplace"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// marksVersion is that of moves.json as package inplace writes it. Version 1 was replaced as a whole, as node.json is: at
// each seal and promotion two syncs and a rename, while nobody may write the scope.
const marksVersion = 2

// moveRecord is the content of moves.json.
type moveRecord struct {
	Marks []markRecord `json:"marks"` // in the order of moves
}

// markRecord is an agent.Mark on disk.
type markRecord struct {
	Move        string `json:"move"`
	Prefix      string `json:"prefix"` // text form
	Keys        uint64 `json:"keys"`
	Bytes       uint64 `json:"bytes"`
	Digest      string `json:"digest"`
	Promoted    bool   `json:"promoted"`
	Incarnation uint64 `json:"incarnation"`
	Tag         string `json:"incarnation_tag"`
	Ended       uint64 `json:"moves_ended"`
}

// held are the marks.
func (d *dataDir) held() ([]agent.Mark, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []agent.Mark
	for _, m := range d.marked.Marks {
		p, err := scope.ParsePrefix(m.Prefix)
		if err != nil {
			return nil, d.damaged(moveFile, fmt.Errorf("move %s: %w", m.Move, err))
		}
		out = append(out, agent.Mark{Move: m.Move, Prefix: p, Promoted: m.Promoted, Ended: m.Ended,
			Manifest:    migration.Manifest{Keys: m.Keys, Bytes: m.Bytes, Digest: m.Digest},
			Incarnation: agent.Incarnation{Number: m.Incarnation, Tag: m.Tag}})
	}
	return out, nil
}

// mark returns the mark of a move.
func (d *dataDir) mark(move string) (agent.Mark, bool) {
	marks, _ := d.held() // they were parsed when they were read
	for _, m := range marks {
		if m.Move == move {
			return m, true
		}
	}
	return agent.Mark{}, false
}

// putMark is durable when it returns without an error.
func (d *dataDir) putMark(m agent.Mark) error {
	r := markRecord{Move: m.Move, Prefix: m.Prefix.Text(), Keys: m.Manifest.Keys, Bytes: m.Manifest.Bytes, Digest: m.Manifest.Digest,
		Promoted: m.Promoted, Incarnation: m.Incarnation.Number, Tag: m.Incarnation.Tag, Ended: m.Ended}
	return d.setMarks(func(all []markRecord) []markRecord {
		at, known := slices.BinarySearchFunc(all, r.Move, byMove)
		if known {
			all[at] = r
			return all
		}
		return slices.Insert(all, at, r)
	})
}

// markPromoted is durable when it returns without an error.
func (d *dataDir) markPromoted(move string) error {
	return d.setMarks(func(all []markRecord) []markRecord {
		if at, known := slices.BinarySearchFunc(all, move, byMove); known {
			all[at].Promoted = true
		}
		return all
	})
}

// dropMark is durable when it returns without an error.
func (d *dataDir) dropMark(move string) error {
	return d.setMarks(func(all []markRecord) []markRecord {
		return slices.DeleteFunc(all, func(m markRecord) bool { return m.Move == move })
	})
}

func byMove(m markRecord, move string) int { return strings.Compare(m.Move, move) }

func (d *dataDir) setMarks(change func([]markRecord) []markRecord) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeMarks(moveRecord{change(slices.Clone(d.marked.Marks))})
}

// writeMarks is durable when it returns without an error. After one those on disk may be the ones or the others, and any marks are
// written anew, also those that were known.
func (d *dataDir) writeMarks(next moveRecord) error {
	body, err := json.Marshal(next)
	if err == nil {
		err = d.marks.Put(body)
	}
	if err != nil {
		return fmt.Errorf("data dir: %s is not written: %w; check the disk", moveFile, err)
	}
	d.marked, d.id.Marks = next, true
	return nil
}

// finishMarks has all copies of the marks be of the newest, once nobody waits for it.
func (d *dataDir) finishMarks() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.marks.Finish(); err != nil {
		return fmt.Errorf("data dir: %s is not written whole: %w; check the disk", moveFile, err)
	}
	return nil
}

// readMarks reports whether there are any. Those of an older program are in an envelope as node.json is.
func (d *dataDir) readMarks() (bool, error) {
	body, err := inplace.Read(filepath.Join(d.path, moveFile), marksVersion)
	var io *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, inplace.ErrNoCopy):
		return d.read(moveFile, &d.marked)
	case errors.As(err, &io):
		return false, fmt.Errorf("data dir: %s: %w; mend that, or restore the directory together with the node's data", moveFile, err)
	case err == nil:
		err = json.Unmarshal(body, &d.marked)
	}
	if err != nil {
		return false, d.damaged(moveFile, err)
	}
	return true, nil
}
