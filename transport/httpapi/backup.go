package httpapi

import (
	"bufio"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	backupType = "application/octet-stream"
	// maxBackups bounds the downloads at the same time: each encodes the whole
	// state, and a slow one keeps its version of it in memory.
	maxBackups = 4
	// backupChunk is how much of a backup is written at once, and so has to get
	// through within chunkTimeout: little, as slow links are fine.
	backupChunk = 16 << 10
	// chunkTimeout ends the download of a client that does not read.
	chunkTimeout = 10 * time.Second
)

// backup streams the state as a snapshot. Everything that was acknowledged
// before the request is in it.
func (s *server) backup(w http.ResponseWriter, r *http.Request) {
	if !take(&s.backups, maxBackups) {
		writeProblem(w, problemOf(&api.Error{Code: api.Limit,
			Detail: fmt.Sprintf("this server sends %d backups, which is the limit; use another server, or wait for one to end", maxBackups)}))
		return
	}
	defer s.backups.Add(-1)
	st, err := s.read(r.Context(), ReadParams{Consistency: "linearizable"})
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	name := fmt.Sprintf("scope-registry-%s-%d.backup", st.Cluster().ID, st.Index())
	w.Header().Set("Content-Type", backupType)
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	startStream(w)
	if r.Method == http.MethodHead {
		return
	}
	to := patient{w, http.NewResponseController(w)}
	out := bufio.NewWriterSize(to, backupChunk)
	err = st.Encode(out)
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = to.control.Flush()
	}
	if err != nil {
		s.log.Warn("a backup broke off", "to", r.RemoteAddr, "index", st.Index(), "error", err)
		panic(http.ErrAbortHandler) // cuts the connection, so that the client does not take this for the end
	}
}

// patient gives every chunk its own time.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Write writes each backupChunk of b within chunkTimeout.
func (p patient) Write(b []byte) (int, error) {
	written := 0
	for chunk := range slices.Chunk(b, backupChunk) {
		if err := deadline(p.control, chunkTimeout); err != nil {
			return written, err
		}
		n, err := p.ResponseWriter.Write(chunk)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
