"""Openings, scenes, feelings, talk and endings that every plot of the synthetic stories shares."""

SHARED = """
opening_past: once upon/ADP a time , there/PRT was @hero.intro . %home
opening_past: long/ADV ago/ADV , in the ( village | town ) of $town , there/PRT <live @hero.intro .
opening_past: there/PRT was once @hero.intro who <live %where .
opening_past: one $period , @hero.intro =$move #place.to .
opening_past: it was a $sunny $period in $town . @hero.intro =be ~$play %where .
opening_past: in a $size house near the $outdoors <live @hero.intro .
opening_pres: this is the story of @hero.intro . %home
opening_pres: @hero.intro !live in $town .
opening_pres: it is a $sunny $period , and @hero.intro is ~$play %where .
opening_pres: there/PRT is @hero.intro in $town who !love to ^$play .
home: @hero.he =live in a $size house #place.in . [ %trait ]
home: @hero.he =live in ( $town | a ( $size | $colour ) ( house | cottage/NOUN ) near $town ) . [
  %trait ]
home: @hero.he =live with @hero.his ( mother | father | brother | sister | family ) %where .
trait: @hero.he =love to ^$play and to ^$play .
trait: @hero.he =have $num ( brother.s | sister.s | friend.s ) , but @hero.he =be often/ADV $upset .
trait: everyone =know that/ADP @hero =be very $kind .
trait: every day , @hero.he =$move #place2.to to ^see the $animal.pl .
trait: @hero.he always =wear a $colour $clothes .
trait: nobody in $town =be as/ADV $kind as @hero .
trait: @hero.he =like ( $food.pl | $toy.pl | $animal.pl ) more than ( $food.pl | $plant.pl ) .
where: #place.in
where: near the ( $outdoors | $indoors )
where: in the ( village | town ) of $town
scene: the ( sun =be ~shine | wind =be ~blow | rain =be ~fall ) , and the $plant.pl ==be ( wet |
  $colour | $nice ) .
scene: after breakfast the sun =come out/ADV , so @hero =be $glad .
scene: soon a cloud =come , and the sky =be ( grey/ADJ | dark ) .
scene: $num $animal.pl ==be ~sit under the ( tree | $colour $plant.pl ) .
scene: a $size $animal =$move past the ( gate | fence | door | $plant ) .
scene: the air/NOUN =smell of $food.pl and $plant.pl .
scene: #place.in , the $plant.pl ==be $colour and the $plant.pl ==be $colour .
scene: behind the $indoors , someone =have +plant $num $plant.pl .
scene: far away , the bell/NOUN of the $indoors =ring $num times .
glad: @hero =feel $glad . [ @hero.he =$sayglad $nicely . ]
glad: @hero.he =$sayglad and =clap @hero.his hand.s .
glad: @hero.his heart =be full/ADJ of ( joy | hope | courage ) .
glad: what a $nice $period it =be !
glad: @hero =have never +be so $glad before/ADV .
upset: @hero =feel $upset . [ @hero.he =$sayupset $badly . ]
upset: @hero.he =$sayupset $badly because @hero.he =be so $upset .
upset: a tear =roll down @hero.his ( nose/NOUN | cheek/NOUN ) .
upset: @hero.he =do not ^know what to ^do .
upset: @hero.he =sit down on a $size stone/NOUN and =$sayupset .
said: =$say @hero
said: =$say @hero $nicely
said: @hero.he =$say
saidsad: =$sayupset @hero
saidsad: @hero.he =$sayupset
fsaid: =$say @friend
fsaid: =$say @friend $nicely
fsaid: @friend.he =$say
hsaid: =$say @helper
hsaid: =$say @helper $nicely
hsaid: =$sayglad @helper
meetfriend: [ then , ] @hero =meet @friend.intro #place.in .
meetfriend: just then , @friend.intro =come along/ADV .
meetfriend: @hero.his friend , @friend.intro , =come to ^play .
meetfriend: along/ADV the path =come @friend.intro .
meethelper: @hero =see @helper.intro #place2.in .
meethelper: @helper.intro =be ~work #place.in .
meethelper: then @helper.intro =hear @hero and =come #place.to .
meethelper: luckily/ADV , @helper.intro =live next/ADV to/ADP #place .
greet: << hello , @friend.n ! >> %said . << do you ^want to ^$play with me ? >>.
greet: << good morning , >> %fsaid . << my name is @friend.n . what is your name ? >>. << I am
  @hero.n , >> %said .
greet: << what are you ~do #place.in ? >> =ask @friend . << I am ~$search for/ADP $plant.pl , >>
  %said .
greet: << have you +see my $colour $clothes ? >> =ask @friend . << no/X , but I can ^help you , >>
  %said .
filler: on the way , @hero =see $num $animal.pl . << ^look , >> %said , <<- they *be so $nice ! >>.
filler: @hero =$move past the $indoors and across the $outdoors . %scene
filler: %scene [ %glad ]
filler: @hero.he =stop to ^eat a $tasty $food . it =taste ( like $food.pl | $tasty and $tasty ) .
filler: @hero =count the $plant.pl by the path . there/PRT ==be $num of them .
filler: when @hero =$gaze at the ( sky | cloud.s ) , @hero.he =see a cloud that/DET =look like a
  $size $animal .
filler: the $animal that/DET =live under the $plant =$gaze at @hero and =$move away .
filler: @hero.he =think of the $nice $thing that/DET @hero.his ( mother | father | brother | sister
  ) =have +give @hero.him on @hero.his birthday .
filler: after the $weather =have +stop , the path =be full/ADJ of puddle.s . @hero =jump over $num
  of them .
filler: before @hero =can ^$play , @hero.he =have to ^clean $num $thing.pl .
filler: << if the ( rain | snow | wind ) !do not ^stop , we can ^play in the $indoors , >> %said .
filler: in the $indoors , a $job =be ~sell $food.pl and $clothes.pl . @hero =buy $num $food.pl .
filler: a $job with a $colour $clothes =wave at @hero from the $indoors .
filler: @hero =sing a song about a $animal and $num $food.pl .
filler: some $animal.pl ==$move through the $outdoors , and @hero =follow them for/ADP a while/NOUN
  .
filler: because it =be ( late | early ) , the $indoors =be quiet and only a $animal =be awake/ADJ .
filler: the road/NOUN to/ADP $village =be long , so @hero =sit down under a $plant to ^rest .
filler: @hero.he =can ^hear the $weather , but @hero.he =be not afraid .
filler: once , a $animal =have +tell @hero a secret about the $outdoors of $town .
talk: << do you ^think we will ^find a $animal ? >> =ask @friend . << maybe , >> %said . << I once
  <see $num of them ! >>.
talk: << my ( mother | father | brother | sister ) !say that/ADP every $animal in $town is $kind ,
  >> %fsaid .
talk: << I *have $num $toy.pl at home , >> %fsaid . << one of them is $colour . >>.
talk: << when I *grow up , I *want to ^be a $job , >> %fsaid . << that/DET is a $nice idea , >>
  %said .
talk: << which/DET do you ^like more/ADV , $food.pl or $food.pl ? >> =ask @friend . << $food.pl !
  >> %said .
talk: << ^look at that $size $animal ! >> %fsaid . @both ==$gaze at it until it =$move away .
talk: @both ==share $num $food.pl . << *thank you , >> %fsaid . << they *be very $tasty . >>.
talk: @both ==sit down under a $plant and ==eat $food.pl . @both.he ==be very $glad , and @both.he
  ==$sayglad $nicely .
talk: @both ==play with a $toy , and @both.he ==do not ^see the $animal behind @both.him .
talk: @friend =tell @hero a story about a $kind $animal who =live in a $indoors .
talk: @both ==be ~$play , and soon $num $animal.pl ==come to ^watch .
endgood: from that day on/ADV , @hero =be never $upset again .
endgood: that night , @hero =fall asleep/ADV with a smile and =dream of $animal.pl .
endgood: it =be the best day of @hero.his life/NOUN .
endgood: everyone in $town =$sayglad , and they ==eat $food.pl until ( bedtime | sunset ) .
endgood: @hero =go home and =tell @hero.his ( mother | father | family ) everything .
endgood: @hero =be so $glad that/ADP @hero.he =$play all the way home .
endbad: that night , @hero =lie in bed and =$sayupset .
endbad: @hero =go home through the $weather , $upset and $upset .
endbad: the $outdoors =be never the same again .
endbad: @hero =feel $upset for/ADP many days .
endbad: and so @hero =have to ^go home alone , without a smile .
endmixed: @hero =be still a bit $upset , but tomorrow =will ^be a new day .
endmixed: it =be not the day @hero =have +hope for/ADP , but it =be not a bad/ADJ day either/ADV .
endmixed: << next time , we will ^try again , >> %said .
endmixed: @hero.he =be $upset and $glad at the same time .
moral: @hero =learn that/ADP it is ( good | best | right ) to ^be $kind .
moral: << always ^be $kind , >> %said , <<- and never ^be $naughty . >>.
moral: now @hero =know that/ADP $kind friend.s *be better than $nice $toy.pl .
moral: and @hero never =forget that $period in $town .
"""
