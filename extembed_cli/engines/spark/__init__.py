"""The engine on a Spark cluster: tasks that call the functions of the local engine, and what moves between them."""
