"""``perdure demo``: a real program, real processes, SIGKILL in the middle, and a proof at the end.

`app` is the program, as a user would write it. `service` is the HTTP service that it calls. `play`
directs: it starts the processes, kills workers and starts them again. `children` keeps hold of the
processes, `view` shows what happens, `proof` reads the tables afterwards. All of it stands outside
the engine: only `import perdure`.
"""
