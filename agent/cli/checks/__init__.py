"""What `meshnode check` looks at: `facts` gathers, `machine` and `node` judge without I/O."""
