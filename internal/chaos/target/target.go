// Package target is what a chaos run is made against: three servers, and data
// nodes, that can be started, killed, paused and cut off from each other, and told
// apart from outside. [Docker] runs them in containers of compose files, [Local] as
// processes.
package target

import (
	"context"

	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/link"
	"github.com/scope-registry/scope-registry/internal/load"
)

// Target is a cluster that faults can be done to. Servers are named by their
// ids. No method waits until a server is ready.
type Target interface {
	// Servers are the ids of the servers, in order.
	Servers() []string
	// Nodes are the ids of the data nodes, in order; there may be none. Kill to
	// Inspect are for them too.
	Nodes() []string
	// URL is where clients reach a server or a node, whatever happens to it.
	URL(id string) string
	// Up starts all servers with empty data.
	Up(ctx context.Context) error
	// Down ends all servers and removes their data. It undoes a part of Up too.
	Down(ctx context.Context) error
	// Kill ends a server without notice, Stop with notice; Start starts it again.
	Kill(ctx context.Context, server string) error
	Stop(ctx context.Context, server string) error
	Start(ctx context.Context, server string) error
	// Pause makes a server stand still until Resume.
	Pause(ctx context.Context, server string) error
	Resume(ctx context.Context, server string) error
	// Cut keeps a server from the other servers, but not from clients, until Mend.
	Cut(ctx context.Context, server string) error
	Mend(ctx context.Context, server string) error
	// Inspect tells what a server runs in.
	Inspect(ctx context.Context, server string) (history.Machine, error)
	// Logs writes what each server has logged to a file in dir.
	Logs(ctx context.Context, dir string) error
	// String says what is tested, for people.
	String() string
}

// What not every target can do; a fault that needs it is not done to others.
type (
	// Linked has links that are changed one direction at a time.
	Linked interface{ Net() *link.Net }
	// Disked gives the data directory of a server that does not run to be changed.
	Disked interface {
		Disk(ctx context.Context, server string, change func(dir string) error) error
	}
	// Logged tells what a server has logged since it was started last.
	Logged interface {
		Log(ctx context.Context, server string) (string, error)
	}
	// Growing starts further servers, which wait to be joined. Add returns the
	// address that the others reach the server at; Remove forgets one that is gone.
	Growing interface {
		Add(ctx context.Context, server string) (peer string, err error)
		Remove(server string) error
	}
	// Failing has servers whose disks do as they are told.
	Failing interface {
		FailPoint(server string, what load.Disk, say string) (undo func() error, err error)
	}
	// Secured has servers that are reached under TLS, with these files and an admin's rights. They are there after Up.
	Secured interface{ Credentials() certs.Files }
	// Readdressed gives servers that are started in another order other addresses.
	Readdressed interface{ Readdresses() bool }
)
