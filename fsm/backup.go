package fsm

import (
	"errors"
	"fmt"
	"io"

	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/snapshot"
)

// EncodeBackup writes the state as a backup: a snapshot that ends with the time
// at which it was written, in milliseconds since 1970, and that holds nothing of
// another backup on its way into the log. The error is that of to.
func (s State) EncodeBackup(to io.Writer, timeMS int64) error {
	s.staged = staging{}
	return s.encode(to, &pb.Record{Kind: &pb.Record_Written{Written: &pb.WrittenRecord{TimeMs: timeMS}}})
}

// LoadBackup reads a whole backup, or another snapshot, into a state of its own
// and checks it. timeMS is when it was written, 0 where that is not told. Any
// error means that there is nothing in it to be used.
func LoadBackup(from io.Reader) (s State, timeMS int64, err error) {
	r, err := snapshot.NewReader(from)
	if err != nil {
		return State{}, 0, err
	}
	loader := NewLoader()
	for {
		err := loader.next(r)
		if errors.Is(err, io.EOF) {
			s, err := loader.State()
			return s, loader.written, err
		}
		if err != nil {
			return State{}, 0, err
		}
	}
}

// next takes the next record; io.EOF is the good end.
func (l *Loader) next(from *snapshot.Reader) error {
	encoded, err := from.NextEncoded()
	if err != nil {
		return err
	}
	if taken, err := l.addScope(encoded); taken {
		return err
	}
	record, err := from.Decoded()
	if err != nil {
		return err
	}
	return l.Add(record)
}

// part takes the next part of a backup that was on its way into the log.
func (l *Loader) part(r *pb.StagedRecord) error {
	if l.tx.staged.id != "" && l.tx.staged.id != r.GetId() || r.GetId() == "" {
		return fmt.Errorf("the snapshot holds parts of backup %q after those of %q", r.GetId(), l.tx.staged.id)
	}
	l.tx.staged = l.tx.staged.with(r.GetId(), r.GetData())
	return nil
}
