package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/boottime"
	"github.com/scope-registry/scope-registry/migration"
)

const (
	// quiet is how long the watch of a session may send nothing: four heartbeats, and half a lease, so that another server
	// can bring the view up to date before the leader refuses to renew.
	quiet = 4 * time.Second
	// firstLook and lastLook are the pauses between two looks at whether the writes of a closed scope are over. It takes no
	// write meanwhile, so that the first comes soon; a write that is stuck is not waited for by spinning.
	firstLook = 100 * time.Microsecond
	lastLook  = 5 * time.Millisecond
	// wordTime bounds the saying of one word; the state repeats it.
	wordTime = 5 * time.Second
	// storeAgain is the pause after an error of the store that must not be the end.
	storeAgain = time.Second
	// betweenBatches leaves the store to others while an old copy is deleted.
	betweenBatches = 5 * time.Millisecond
)

// effect begins what the state asks for.
func (s *Session) effect(f agent.Effect) {
	switch f := f.(type) {
	case agent.Publish: // done
	case agent.Watch:
		s.watch(f)
	case agent.OpenSession:
		s.begin(func(ctx context.Context) { s.tell(s.open(ctx, f)) })
	case agent.Renew:
		s.begin(func(ctx context.Context) { s.tell(s.renew(ctx, f.Renewal)) })
	case agent.AwaitDrain:
		ctx := s.ctx
		if f.Move != "" {
			ctx = s.lifeOf(f.Move)
		}
		s.beginWith(ctx, func(ctx context.Context) { s.awaitDrain(ctx, f) })
	case agent.Copy:
		s.beginWith(s.lifeOf(f.Move), func(ctx context.Context) { s.ship.copy(ctx, f) })
	case agent.Ship:
		s.beginWith(s.lifeOf(f.Move), func(ctx context.Context) { s.ship.ship(ctx, f) })
	case agent.StopShipping:
		s.stopWaiting(f.Move)
		s.begin(func(context.Context) { s.ship.forget(f.Move) })
	case agent.Seal:
		s.begin(func(ctx context.Context) { s.seal(ctx, f.Mark) })
	case agent.Promote:
		s.stopWaiting(f.Move)
		s.begin(func(ctx context.Context) { s.promote(ctx, f.Slice) })
	case agent.Discard:
		s.stopWaiting(f.Move)
		s.begin(func(ctx context.Context) { s.discard(ctx, f.Move) })
	case agent.Delete:
		s.begin(func(ctx context.Context) { s.tell(s.clean(ctx, f)) })
	case agent.Tell:
		s.begin(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, wordTime)
			defer cancel()
			_ = s.c.Report(ctx, f.Report) // the next one comes soon
		})
	case agent.Say:
		s.say(f.Word)
	}
}

// lifeOf is that of what ships a slice or waits for a drain: until the state says
// stop, or goes on.
func (s *Session) lifeOf(move string) context.Context {
	x, ok := s.moves[move]
	if !ok {
		x.ctx, x.cancel = context.WithCancel(s.ctx)
		s.moves[move] = x
	}
	return x.ctx
}

// stopWaiting ends what runs for a move with its life.
func (s *Session) stopWaiting(move string) {
	if x, ok := s.moves[move]; ok {
		x.cancel()
		delete(s.moves, move)
	}
}

// watch begins a stream in place of the one before.
func (s *Session) watch(f agent.Watch) {
	if s.watching != nil {
		s.watching()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.watching = cancel
	s.beginWith(ctx, func(ctx context.Context) {
		defer cancel()
		err := s.follow(ctx, f)
		if ctx.Err() == nil {
			s.note("watch", err.Error())
		}
		s.tell(agent.WatchEnded{Stream: f.Stream, Code: api.CodeOf(err)})
	})
}

func (s *Session) follow(ctx context.Context, f agent.Watch) error {
	first := s.next.Load()
	if first == 0 {
		first = s.c.watchNext()
	}
	stream, err := s.c.openStreamAt(ctx, first, f.From, quiet)
	if err != nil {
		s.next.Store(first + 1) // perhaps only the first one that is asked refuses
		return err
	}
	s.next.Store(stream.at + 1) // whatever other streams the client has begun meanwhile
	defer stream.close()
	for {
		item, err := stream.next()
		if err != nil {
			return err
		}
		s.note("watch", "")
		s.tell(agent.Watched{Stream: f.Stream, Item: item})
	}
}

// open opens a session. Its token is on disk before the first try: a process that
// dies before it has the answer leaves it to the next one, which may need it.
func (s *Session) open(ctx context.Context, f agent.OpenSession) agent.Event {
	tries := s.dir.tokens()
	o := OpenSession{Identity: s.dir.identity(), Session: random(), Token: random(),
		Incarnation: f.Incarnation.Number, Tag: f.Incarnation.Tag, View: f.View}
	if err := s.dir.setTokens(func(all []string) []string { return append(all, o.Token) }); err != nil {
		s.note("open", err.Error())
		return agent.OpenFailed{Code: api.Internal}
	}
	for {
		if len(tries) > 0 {
			o.PreviousToken = tries[len(tries)-1]
			tries = tries[:len(tries)-1]
		}
		r, certain, err := s.surely(ctx, o)
		if errors.Is(err, &Error{Code: api.SessionBusy}) && len(tries) > 0 {
			continue // the live session may have an older token
		}
		if err == nil {
			return s.opened(f, o, r)
		}
		s.note("open", err.Error())
		if certain {
			drop := func(all []string) []string {
				return slices.DeleteFunc(all, func(t string) bool { return t == o.Token })
			}
			if err := s.dir.setTokens(drop); err != nil {
				s.note("data dir", err.Error())
			}
		}
		return agent.OpenFailed{Code: api.CodeOf(err)}
	}
}

func (s *Session) opened(f agent.OpenSession, o OpenSession, r Opened) agent.Event {
	s.note("open", "")
	if err := s.dir.setTokens(func([]string) []string { return []string{o.Token} }); err != nil {
		s.note("data dir", err.Error()) // the token is there, with others
	}
	for _, w := range r.Warnings {
		s.log.Warn("the session was opened with a warning", "warning", w)
	}
	return agent.Opened{Session: o.Session, Index: r.Opened, Incarnation: f.Incarnation,
		Renew: time.Duration(r.RenewMS) * time.Millisecond, Lease: time.Duration(r.LeaseMS) * time.Millisecond}
}

// surely sends the same request until its outcome is known: the session it asks for
// may be open already, and another one could not be opened beside it. Once a try is
// in doubt only the state's own refusal is an answer: a server that finds no leader
// says nothing of that try. It is not certain even then that none of the tries will
// open the session, as one that is late may come yet; its token is needed then.
func (s *Session) surely(ctx context.Context, o OpenSession) (r Opened, certain bool, err error) {
	for certain = true; ; {
		r, err = s.c.OpenSession(ctx, s.cfg.Node, o)
		refused := err != nil && api.CodeOf(err).Outcome() == api.NotApplied
		if err == nil || ctx.Err() != nil || refused && (certain || decided(err)) {
			return r, certain && refused, err
		}
		certain = certain && refused
		s.note("open", err.Error())
		sleep(ctx, maxPause)
	}
}

// renew asks for the lease, which is counted from before the request is sent.
func (s *Session) renew(ctx context.Context, r Renewal) agent.Event {
	ctx, cancel := context.WithTimeout(ctx, api.DefaultLeases().Lease)
	defer cancel()
	sent := boottime.Now()
	granted, err := s.c.Renew(ctx, r)
	if err == nil {
		s.note("renewal", "")
		return agent.Renewed{Session: r.Session, SentAt: sent, Lease: time.Duration(granted.LeaseMS) * time.Millisecond, Index: granted.Index}
	}
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.note("renewal", err.Error())
	}
	failed := agent.RenewFailed{Session: r.Session, Code: api.CodeOf(err)}
	var e *Error
	if errors.As(err, &e) {
		failed.Index = e.Index
	}
	return failed
}

// awaitDrain looks whether the writes under way are over. They do not tell: that
// would cost each of them as much as all the rest.
func (s *Session) awaitDrain(ctx context.Context, f agent.AwaitDrain) {
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		if f.Move == "" && s.adm.Idle() || f.Move != "" && s.adm.Drained(f.Prefix) {
			s.tell(agent.Drained{Move: f.Move})
			return
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// seal keeps the mark. The staged slice is durable since it was verified, and takes
// no more records.
func (s *Session) seal(ctx context.Context, m agent.Mark) {
	if err := s.dir.putMark(m); err != nil {
		s.tell(agent.ShipFailed{Move: m.Move, Reason: reasonOf(err)})
		return
	}
	s.tell(agent.Sealed{Mark: m})
	s.finishMarks(ctx)
}

// finishMarks comes after what waits for a mark was told. Until it is done, damage to what was written last would have the
// marks before it look like the newest.
func (s *Session) finishMarks(ctx context.Context) {
	const about = "further copy of the marks"
	for {
		err := s.dir.finishMarks()
		if err == nil {
			s.note(about, "")
			return
		}
		s.note(about, err.Error())
		if !sleep(ctx, storeAgain) {
			return
		}
	}
}

// promote puts the slice in force. The scope is this node's by now and closed until
// it is done, so that an error is not the end.
func (s *Session) promote(ctx context.Context, f agent.Slice) {
	began := time.Now()
	for {
		err := s.cfg.Store.Promote(ctx, Slice{Move: f.Move, Prefix: f.Prefix})
		if err == nil {
			err = s.dir.markPromoted(f.Move)
		}
		if err == nil {
			break
		}
		if ctx.Err() == nil { // else it is the end of the session
			s.note("promotion of the slice of move "+f.Move, err.Error())
		}
		if !sleep(ctx, storeAgain) {
			return
		}
	}
	s.note("promotion of the slice of move "+f.Move, "")
	s.tell(agent.Promoted{Move: f.Move})
	s.finishMarks(ctx)
	s.log.Info("the slice is in force", "move", f.Move, "scope", f.Prefix.Text(), "took", time.Since(began).Round(time.Millisecond))
	if err := s.receive.discard(ctx, f.Move); err != nil {
		s.log.Warn("what was staged of a promoted slice stays until the next start", "move", f.Move, "error", err)
	}
}

// discard deletes what is staged, the mark first: a mark without its slice would
// say that the store has lost it. The store may take long, and nobody waits.
func (s *Session) discard(ctx context.Context, move string) {
	about := "deletion of what is staged of move " + move
	defer s.note(about, "")
	for {
		err := s.dir.dropMark(move)
		if err == nil {
			s.finishMarks(ctx)
			err = s.receive.discard(ctx, move)
		}
		if err == nil {
			s.tell(agent.Discarded{Move: move})
			return
		}
		s.note(about, err.Error())
		if !sleep(ctx, storeAgain) {
			return
		}
	}
}

// clean deletes an old copy, one batch after the other, each with the rules in
// force that allow it.
func (s *Session) clean(ctx context.Context, f agent.Delete) agent.Event {
	about := "deletion of the old copy of " + f.Prefix.Text()
	trouble := ""
	defer func() { s.note(about, trouble) }()
	for {
		if !s.adm.BeginDelete(f.Prefix, f.Epoch) {
			return agent.Deleted{Prefix: f.Prefix, Epoch: f.Epoch}
		}
		more, err := s.cfg.Store.Clean(ctx, f.Prefix)
		s.adm.EndDelete()
		if err != nil {
			trouble = err.Error()
			return agent.Deleted{Prefix: f.Prefix, Epoch: f.Epoch}
		}
		if !more {
			s.log.Info("the old copy is deleted", "scope", f.Prefix.Text())
			return agent.Deleted{Prefix: f.Prefix, Epoch: f.Epoch, Done: true}
		}
		if !sleep(ctx, betweenBatches) {
			return agent.Deleted{Prefix: f.Prefix, Epoch: f.Epoch}
		}
	}
}

// say says a word once, unless the same is being said. What became of it the view
// shows, and the state repeats it until then.
func (s *Session) say(w agent.Word) {
	s.mu.Lock()
	busy := s.saying[w]
	s.saying[w] = true
	s.mu.Unlock()
	if busy {
		return
	}
	s.begin(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, wordTime)
		defer cancel()
		err := s.word(ctx, w)
		s.mu.Lock()
		delete(s.saying, w)
		s.mu.Unlock()
		if err != nil {
			s.log.Debug("a word was not taken", "move", w.Move, "error", err)
		}
		if w.Kind == agent.SayClose && (err == nil || errors.Is(err, &Error{Code: api.SessionExpired})) {
			s.tell(agent.Closed{Session: w.Session})
		}
	})
}

func (s *Session) word(ctx context.Context, w agent.Word) error {
	var err error
	switch w.Kind {
	case agent.SayShipped:
		_, err = s.c.ShippedAs(ctx, w.Session, w.Move, manifestOf(w.Manifest))
	case agent.SayReady:
		_, err = s.c.ReadyAs(ctx, w.Session, w.Move, manifestOf(w.Manifest))
	case agent.SayAbort:
		_, err = s.c.AbortAs(ctx, w.Session, w.Move, w.Reason)
	case agent.SayCleaned:
		_, err = s.c.CleanedAs(ctx, w.Session, Cleanup{Node: s.cfg.Node, Prefix: w.Prefix.Text(), Epoch: w.Epoch, Move: w.Move})
	case agent.SayClose:
		_, err = s.c.CloseSession(ctx, w.Session)
	}
	return err
}

func manifestOf(m migration.Manifest) *Manifest {
	return &Manifest{Keys: m.Keys, Bytes: m.Bytes, Digest: m.Digest}
}
