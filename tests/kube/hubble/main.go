// Reads flows as Hubble's own programs do, and prints each as Hubble writes it. Stricter than they
// are: a field that Hubble does not have is an error.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/encoding/protojson"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		// What its exporter writes to files, and what its command reads and prints.
		var exported observer.ExportEvent
		var response observer.GetFlowsResponse
		err := protojson.Unmarshal(lines.Bytes(), &exported)
		if err == nil {
			err = protojson.Unmarshal(lines.Bytes(), &response)
		}
		if err == nil && response.GetFlow() == nil {
			err = fmt.Errorf("no flow")
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "line %d: %v\n", number, err)
			os.Exit(1)
		}
		printed, err := response.MarshalJSON()
		if err != nil {
			panic(err)
		}
		fmt.Println(string(printed))
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
