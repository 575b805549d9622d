import base64

from gradio_client import Client, handle_file

page = Client("http://127.0.0.1:7860")
film = handle_file("film.png")
answer = page.predict(film, api_name="/predict")  # also a list of films
print(answer["films"][0]["sentence"])

label = answer["films"][0]["findings"][0]["label"]
picture = page.predict(film, label, api_name="/heatmap")
with open("heatmap.png", "wb") as file:
    file.write(base64.b64decode(picture.partition(",")[2]))
