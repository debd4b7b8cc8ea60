// A double of a workspace for Databricks' CLI: the test server of the CLI itself, on loopback.
//
// It prints its address, and ends when its input does.
package main

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/databricks/cli/libs/testserver"
)

// owner is what the server takes for a test: it tells what it cannot do, and cleans up at the end.
type owner struct {
	testing.TB
	cleanups []func()
}

func (o *owner) Cleanup(f func())                  { o.cleanups = append(o.cleanups, f) }
func (o *owner) Helper()                           {}
func (o *owner) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (o *owner) Errorf(format string, args ...any) { o.Logf("error: "+format, args...) }

func main() {
	o := &owner{}
	server := testserver.New(o)
	testserver.AddDefaultHandlers(server)
	fmt.Println(server.URL)
	io.Copy(io.Discard, os.Stdin)
	for i := len(o.cleanups) - 1; i >= 0; i-- {
		o.cleanups[i]()
	}
}
